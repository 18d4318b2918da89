"""A pass of `bench.checkpoint`: one rank trains until its script is through, and the first one writes what was measured. Not for people."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bench.checkpoint_keepers import Keeper, Torchs, build_ours
from bench.checkpoint_rank import Rank, join
from bench.stalls import ASKED, Script, Step, slowdown, stalls_s, told, usual_s
from data_pipeline.config import StorageConfig
from orchestrator import codec
from orchestrator.worker.image import new_memory
from orchestrator.worker.snapshots import build_snapshots
from orchestrator.worker.training_state import shards_of

BEGAN_S = time.monotonic()
Tell = Callable[[str, dict[str, Any]], None]
"""Hears what was measured at a place as soon as it is known, on the first rank."""
MOST_READ_BYTES = 4e9
"""That torch is asked to read: it would take minutes for more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the parent process says."""

    candidate: str
    preset: str
    num_layers: int
    directory: str
    num_threads: int
    places: dict[str, StorageConfig] = field(default_factory=dict)
    """Of ours."""
    num_snapshots: int
    num_checkpoints: int
    last_start_s: float
    """Seconds after this process began; see `Script`."""


def train(rank: Rank, keeper: Keeper, script: Script) -> list[Step]:
    """Until the script is through."""
    steps: list[Step] = []
    while True:
        word = script.ask(steps, time.monotonic() - BEGAN_S) if rank.number == 0 else ""
        if word == "checkpoint":
            keeper.make_room()
        if word == "snapshot" or word == "checkpoint":
            rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s, after {len(steps)} steps: a {word}")
        started_s = time.perf_counter()
        metrics, (asked, *votes) = rank.step([float(ASKED.index(word)), *keeper.votes()])
        word = ASKED[int(asked)]
        if word == "end":
            return steps
        taken = keeper.after(len(steps) + 1, metrics, word, votes)
        steps.append(Step(seconds=time.perf_counter() - started_s, taken=taken, meanwhile=keeper.meanwhile(votes)))


def measure(rank: Rank, keeper: Keeper, script: Script, tell: Callable[[dict[str, Any]], None], *, reads: bool = True) -> None:
    """What steps, stalls and transfers took; what is read is told later, for where time runs out."""
    steps = train(rank, keeper, script)
    keeper.finish()
    figures = {
        "steps": len(steps),
        "step_s": usual_s(steps),
        "stall_s": {kind: told(stalls_s(steps, kind)) for kind in ("snapshot", "checkpoint")},
        "slowdown": {beside: slowdown(steps, beside) for beside in ("readying", "sealing", "uploading")},
    }
    if rank.number == 0:
        figures |= keeper.rates()
        tell(figures | {"read_bytes_per_s": None})
    if reads:
        rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s: reads the last checkpoint")
        read_s = keeper.read()
        if rank.number == 0:
            tell(figures | {"read_bytes_per_s": keeper.rates()["bytes"] / read_s})
    rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s: done")


def measure_ours(rank: Rank, settings: Settings, tell: Tell) -> None:
    """By place; snapshots are asked for at the first one, which is the only one where time is short."""
    exchange = rank.exchange("places")
    snapshots = build_snapshots(
        new_memory(["first", "second"]),
        rank.state,
        rank=rank.number,
        world_size=rank.world_size,
        attempt=1,
        terms="",
        device=rank.device,
    )
    rank.before_update(snapshots.before_update)
    is_first = True
    for place, storage in settings.places.items():
        if not is_first and exchange.broadcast(time.monotonic() - BEGAN_S > settings.last_start_s):
            rank.say(f"ours, {place}: left out, time is short")
            continue
        rank.say(f"ours, {place}: {storage.root}")
        script = Script(
            num_snapshots=settings.num_snapshots if is_first else 0,
            num_checkpoints=settings.num_checkpoints,
            last_start_s=settings.last_start_s,
        )
        measure(rank, build_ours(rank, snapshots, storage, place), script, partial(tell, place))
        is_first = False


def measure_torchs(rank: Rank, settings: Settings, tell: Tell) -> None:
    rank.say(f"torch's async_save: {settings.directory}")
    script = Script(num_snapshots=0, num_checkpoints=settings.num_checkpoints, last_start_s=settings.last_start_s)
    keeper, size_bytes = Torchs(rank, Path(settings.directory), settings.num_threads), rank.world_size * bytes_of(rank)
    measure(rank, keeper, script, partial(tell, "directory"), reads=size_bytes <= MOST_READ_BYTES)


def bytes_of(rank: Rank) -> int:
    return sum(shard.nbytes for shard in shards_of(rank.state).values())


def main() -> None:
    """Ends the process itself: threads of gloo may abort an ordinary exit."""
    settings = codec.from_json(Settings, Path(sys.argv[1]).read_bytes(), sys.argv[1])
    rank = join(settings.preset, settings.num_layers)
    rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s: {rank.world_size} × {bytes_of(rank) / 1e9:.2f} GB of state on {rank.device.type}")
    found: dict[str, Any] = {"state_bytes_per_rank": bytes_of(rank)}

    def tell(place: str, figures: dict[str, Any]) -> None:
        found[place] = figures
        half = Path(sys.argv[2] + ".half")
        half.write_text(json.dumps(found))
        half.replace(sys.argv[2])

    (measure_ours if settings.candidate == "ours" else measure_torchs)(rank, settings, tell)
    rank.together()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

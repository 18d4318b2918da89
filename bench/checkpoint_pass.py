"""A pass of `bench.checkpoint`: one rank trains until its script is through, and the first one writes what was measured. Not for people."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
"""Hears what was measured at a place as soon as it is known."""


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


def measured(rank: Rank, keeper: Keeper, script: Script) -> dict[str, Any]:
    """What steps, stalls and transfers took; for the first rank."""
    steps = train(rank, keeper, script)
    keeper.finish()
    rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s: reads the last checkpoint")
    read_s = keeper.read()
    return {
        "steps": len(steps),
        "step_s": usual_s(steps),
        "stall_s": {"snapshot": told(stalls_s(steps, "snapshot")), "checkpoint": told(stalls_s(steps, "checkpoint"))},
        "slowdown": {
            "readying": slowdown(steps, "readying"),
            "sealing": slowdown(steps, "sealing"),
            "uploading": slowdown(steps, "uploading"),
        },
        **(keeper.rates(read_s) if rank.number == 0 else {}),
    }


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
        tell(place, measured(rank, build_ours(rank, snapshots, storage, place), script))
        is_first = False


def measure_torchs(rank: Rank, settings: Settings, tell: Tell) -> None:
    rank.say(f"torch's async_save: {settings.directory}")
    script = Script(num_snapshots=0, num_checkpoints=settings.num_checkpoints, last_start_s=settings.last_start_s)
    tell("directory", measured(rank, Torchs(rank, Path(settings.directory), settings.num_threads), script))


def main() -> None:
    """Ends the process itself: threads of gloo may abort an ordinary exit."""
    settings = codec.from_json(Settings, Path(sys.argv[1]).read_bytes(), sys.argv[1])
    rank = join(settings.preset, settings.num_layers)
    state_bytes = sum(shard.nbytes for shard in shards_of(rank.state).values())
    rank.say(f"  {time.monotonic() - BEGAN_S:5.1f} s: {rank.world_size} × {state_bytes / 1e9:.2f} GB of state on {rank.device.type}")
    found: dict[str, Any] = {"state_bytes_per_rank": state_bytes}

    def tell(place: str, figures: dict[str, Any]) -> None:
        found[place] = figures
        if rank.number == 0:
            Path(sys.argv[2]).write_text(json.dumps(found))

    (measure_ours if settings.candidate == "ours" else measure_torchs)(rank, settings, tell)
    rank.together()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

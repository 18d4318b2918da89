"""What keeping training's state costs it: `python -m bench.checkpoint`, and torch's `async_save` beside it.

The real training step, with snapshots and checkpoints by a run's own saver: how long each holds training up, how much slower steps are
meanwhile, bytes a second to and from a directory and S3, and the floor under these: a plain copy with digest by as many threads. On GPUs
eight layers of the 7B, one process for each; on a CPU a small model. With --json the last line is one JSON object. S3 is the server that
--s3 names, or Ceph's gateway on loopback where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.checkpoint_pass import Settings
from bench.checkpoint_rank import MODELS
from bench.copy_floor import directory_floor, store_floor
from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import StoreError
from launch.demo.store import demo_store
from launch.errors import NotReachable
from launch.servers.ceph import why_not_ceph
from model.parameters import num_params
from orchestrator import codec
from orchestrator.worker.snapshots import NUM_HANDS

TIMEOUT_S = {"ours": 170.0, "torch": 90.0}
"""Of a pass; what it has measured by then counts."""
BYTES_PER_PARAM = 12
"""fp32 weight and AdamW's two moments."""
FLOOR_BYTES = 2**32
CEPH_BYTES = 2e9
"""The most state that Ceph's gateway is given: it keeps objects in memory, deleted ones for a while too."""
LAST_START_S = {"ours": 90.0, "torch": 45.0}
"""After so long a pass begins no further snapshot or checkpoint but the first of each."""
TARGETS = {"stall_s": 0.1, "slowdown_uploading": 0.02}
"""On one H200."""


class Failed(Exception):
    """A pass gave no figures. The message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where ours gave no figures, 2 where it can't be tried."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="braid-bench-", dir=options.dir) as home:
        if problem := _no_room(Path(home), options):
            print(problem, file=sys.stderr)
            return 2
        with _places(options, Path(home)) as places:
            found = _measure(options, Path(home), places)
    for line in table(found):
        print(line)
    if options.json:
        print(json.dumps(found), flush=True)
    return 0 if "why" not in found["ours"] else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--preset", choices=MODELS, default="olmo_hybrid_7b" if on_gpu else "small", metavar="NAME")
    parser.add_argument("--layers", type=int, default=8 if on_gpu else 0, help="of the preset; 0 for all")
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count() if on_gpu else 1, help="processes")
    parser.add_argument("--dir", type=Path, default=None, help="on the disk to measure; a directory for temporary files unless given")
    parser.add_argument("--s3", default="", metavar="s3://BUCKET/PREFIX", help="an empty place; none to do without")
    parser.add_argument("--endpoint-url", default="", help="of --s3")
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--only", action="append", choices=("ours", "torch", "floor"), help="may be given again; all where none is")
    return parser.parse_args(arguments)


def _state_bytes(options: argparse.Namespace) -> int:
    model = MODELS[options.preset]
    return num_params(replace(model, num_layers=options.layers) if options.layers else model) * BYTES_PER_PARAM


def _no_room(home: Path, options: argparse.Namespace) -> str:
    needed, free = 1.1 * _state_bytes(options), shutil.disk_usage(home).free
    if free >= needed:
        return ""
    return (
        f"{home.parent}: {free / 1e9:.0f} GB free, a checkpoint takes {needed / 1e9:.0f}; name another disk with --dir, or fewer --layers"
    )


@contextmanager
def _places(options: argparse.Namespace, home: Path) -> Iterator[dict[str, StorageConfig]]:
    """The directory, and S3 where there is a server."""
    places = {"directory": StorageConfig(root=str(home / "store"))}
    why_not = why_not_ceph() or ("" if _state_bytes(options) <= CEPH_BYTES else "the state is larger than what Ceph is given here")
    if options.s3 == "none":
        yield places
    elif options.s3:
        yield places | {"s3": StorageConfig(root=options.s3, endpoint_url=options.endpoint_url)}
    elif why_not:
        _say(f"S3 is left out: {why_not}; or name a server with --s3")
        yield places
    else:
        try:
            _say("starts Ceph's gateway")
            with demo_store("ceph", home) as storage:
                yield places | {"s3": storage}
        except NotReachable as error:
            _say(f"S3 is left out: {error}")
            yield places


def _measure(options: argparse.Namespace, home: Path, places: Mapping[str, StorageConfig]) -> dict[str, Any]:
    wanted = options.only or ("floor", "ours", "torch")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "ranks": options.ranks,
        "cores": os.cpu_count(),
        "torch_version": torch.__version__,
        "preset": options.preset,
        "layers": options.layers,
        "state_bytes": _state_bytes(options),
    }
    if "floor" in wanted:
        found["floor"] = _floors(options, home, places)
    for candidate in ("ours", "torch"):
        found[candidate] = _candidate(candidate, options, home, places) if candidate in wanted else {"why": "not asked for"}
    return found | headlines(found["ours"])


def _floors(options: argparse.Namespace, home: Path, places: Mapping[str, StorageConfig]) -> dict[str, Any]:
    _say("floor: a plain copy with digest")
    size_bytes, num_threads = min(FLOOR_BYTES, _state_bytes(options)), min(NUM_HANDS * options.ranks, os.cpu_count() or 1)
    floors: dict[str, Any] = {"directory": directory_floor(home / "floor", size_bytes=size_bytes, num_threads=num_threads)}
    if "s3" in places:
        try:
            floors["s3"] = store_floor(open_store(places["s3"]), size_bytes=min(size_bytes, 2**30), num_threads=num_threads)
        except StoreError as error:
            _say(f"S3: {error}")
    return floors


def _candidate(name: str, options: argparse.Namespace, home: Path, places: Mapping[str, StorageConfig]) -> dict[str, Any]:
    _say(f"{name}: {options.ranks} × {options.preset}, {options.layers or 'all'} layers")
    settings = Settings(
        candidate=name,
        preset=options.preset,
        num_layers=options.layers,
        directory=str(home / "torch"),
        num_threads=NUM_HANDS,
        places=dict(places),
        num_snapshots=options.snapshots,
        num_checkpoints=options.checkpoints,
        last_start_s=LAST_START_S[name],
    )
    try:
        return run_ranks(settings, home, num_ranks=options.ranks)
    except Failed as error:
        _say(f"{name}: {error}; left out")
        return {"why": str(error)}
    finally:
        shutil.rmtree(home / "torch", ignore_errors=True)
        shutil.rmtree(home / "store", ignore_errors=True)


def run_ranks(settings: Settings, home: Path, *, num_ranks: int) -> dict[str, Any]:
    """A pass in processes of its own; what it had measured, where it does not come to its end. Raises Failed where that is nothing."""
    said, answer = home / "settings.json", home / "answer.json"
    said.write_bytes(codec.to_json(settings))
    answer.unlink(missing_ok=True)
    variables = os.environ | {"WORLD_SIZE": str(num_ranks), "MASTER_PORT": str(_free_port())}
    command = [sys.executable, "-m", "bench.checkpoint_pass", str(said), str(answer)]
    ranks = [subprocess.Popen(command, env=variables | {"RANK": str(rank)}, stdout=2) for rank in range(num_ranks)]
    timeout_s = TIMEOUT_S[settings.candidate]
    ends_at_s = time.monotonic() + timeout_s
    try:
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            if time.monotonic() > ends_at_s:
                _say(f"not through after {timeout_s:.0f} s")
                break
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    if not answer.exists():
        raise Failed(f"gave no figures, exit status {', '.join(str(rank.returncode) for rank in ranks)}; the reason is above")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def headlines(ours: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted, of the directory, and whether it is met."""
    if "directory" not in ours:
        return {}
    stalls = [stall["max"] for stall in ours["directory"]["stall_s"].values() if stall]
    uploading = ours["directory"]["slowdown"]["uploading"]
    figures = {"stall_s": max(stalls) if stalls else None, "slowdown_uploading": uploading["median"] if uploading else None}
    return figures | {"is_met": {name: figure is not None and figure <= TARGETS[name] for name, figure in figures.items()}}


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """For people."""
    where = f"{found['ranks']} × {found['device']}, {found['cores']} cores, torch {found['torch_version']}"
    yield f"{where}; {found['state_bytes'] / 1e9:.2f} GB of state"
    for name in ("ours", "torch"):
        for place, one in found[name].items():
            if isinstance(one, dict):
                yield f"{name}, {place}: a step {one['step_s']:.4f} s"
                yield from _lines(one)
    for name in ("floor", "ours", "torch"):
        for place, one in found.get(name, {}).items():
            if isinstance(one, dict):
                read = f", {one['read_bytes_per_s'] / 1e9:.2f} read" if one["read_bytes_per_s"] else ""
                yield f"{name + ', ' + place:<20}{one['write_bytes_per_s'] / 1e9:.2f} GB/s written{read}"


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    for kind, stall in one["stall_s"].items():
        if stall:
            took = f"{stall['first']:.3f} s the first time, {stall['median']:.3f} median, {stall['max']:.3f} max"
            yield f"  a {kind} holds training up for {took}"
    for beside, slower in one["slowdown"].items():
        if slower:
            share = f"{slower['median']:+.1%} median, {slower['mean']:+.1%} mean, {slower['max']:+.0%} the longest"
            yield f"  steps beside {beside}: {share} ({slower['steps']} steps)"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

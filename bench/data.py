"""Data streaming beside its peers: `python -m bench.data [--json] [--peers PYTHON]`.

One corpus of 268 million tokens on one S3 server (Ceph's gateway on loopback), and the same in a directory. Ours (pages verified,
`data.shuffle=blocks`), OLMo-core's numpy dataset, Mosaic Streaming and LitData each read it once, in shuffled batches of int64, each pass
in a process of its own, in turns. `--peers` is the Python of an environment in which peers are installed:
    pip install torch ai2-olmo-core mosaicml-streaming litdata
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import StorageConfig
from data_pipeline.dataset.build import put_pages
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, manifest_key, manifest_to_json
from data_pipeline.dataset.pages import page_digests
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore
from launch.demo.store import demo_store

SEQ_LEN = 8192
ROWS = 16
NUM_SHARDS = 16
SHARD_TOKENS = 2**24
TIMEOUT_S = 120
"""Of one pass, or of making a form of the corpus."""
PEERS = {"olmo_core": ("ai2-olmo-core", "olmo_core"), "mosaic": ("mosaicml-streaming", "streaming"), "litdata": ("litdata", "litdata")}
FIGURES = ("s3_cold_mtok_s", "local_mtok_s", "first_batch_s", "resume_s", "cpu_s", "local_cpu_s", "bytes_fetched_per_used")
"""The processor's seconds are for the whole corpus: on a busy machine they say more than rates do."""
WAIT = "wait_share"
"""Of ours: see `data_wait.py`."""
Figures = dict[str, Any]


class Failed(Exception):
    """A candidate gave no figures. The message is its last line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peers", default=sys.executable, help="the Python that peers are installed for")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians of so many")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, demo_store("ceph", Path(home)) as storage:
        results = _measure(Path(home), storage, arguments.peers, arguments.rounds)
    _print_table(results)
    if arguments.json:
        print(json.dumps(results))


def _measure(home: Path, storage: StorageConfig, python: str, rounds: int) -> dict[str, Figures]:
    remote, local = open_store(storage), open_store(StorageConfig(root=str(home / "local")))
    os.environ.update(AWS_ENDPOINT_URL=storage.endpoint_url, S3_ENDPOINT_URL=storage.endpoint_url)
    keys = _put_corpus(remote, local)
    os.environ["BENCH_SHARDS"] = " ".join(keys)
    results: dict[str, Figures] = {}
    places = {"ours": (sys.executable, "")}
    for name, (package, module) in PEERS.items():
        if _run(python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)").returncode:
            results[name] = _none(f"not installed: pip install {package}, and name that Python with --peers")
            continue
        try:
            _make_form(name, keys, home / "local", remote, python)
            places[name] = (python, "" if name == "olmo_core" else f"/{name}")
        except Failed as error:
            results[name] = _none(str(error))
    runs: dict[str, list[Figures]] = {name: [] for name in places}
    for number in range(1, rounds + 1):
        for name, (its_python, under) in places.items():
            if name not in results:
                print(f"round {number} of {rounds}: {name}", file=sys.stderr, flush=True)
                try:
                    runs[name].append(_once(name, its_python, f"{storage.root}{under}", f"{home}/local{under}", home / "cache"))
                except Failed as error:
                    results[name] = _none(str(error))
    for name, taken in runs.items():
        if name not in results:
            results[name] = {figure: statistics.median(run[figure] for run in taken) for figure in FIGURES}
    results["ours"][WAIT] = _wait_share(home / "local")
    return {name: results[name] for name in ("ours", *PEERS)}


def _once(name: str, python: str, remote: str, local: str, cache: Path) -> Figures:
    """Every figure once. Mosaic's remembers what it shares between processes, so each of its passes has a cache of its own."""
    shutil.rmtree(cache, ignore_errors=True)
    cold = _pass(name, python, remote, cache)
    resumed = _pass(name, python, remote, cache, skip=NUM_SHARDS * SHARD_TOKENS // SEQ_LEN // ROWS // 2)
    read = _pass(name, python, local, cache.with_name("unused"))
    return {
        "s3_cold_mtok_s": cold["tokens"] / cold["seconds"] / 1e6,
        "local_mtok_s": read["tokens"] / read["seconds"] / 1e6,
        "first_batch_s": cold["first_batch_s"],
        "resume_s": resumed["first_batch_s"],
        "cpu_s": _for_all(cold),
        "local_cpu_s": _for_all(read),
        "bytes_fetched_per_used": cold["received"] / cold["tokens"] / 2,
    }


def _for_all(taken: Figures) -> float:
    """The processor's seconds of a pass that may have ended early, as of one through the whole corpus."""
    return float(taken["cpu_s"]) * NUM_SHARDS * SHARD_TOKENS / taken["tokens"]


def _wait_share(local: Path) -> float | None:
    ended = _run(sys.executable, "-m", "bench.data_wait", str(local))
    return None if ended.returncode else float(ended.stdout.split()[-1])


def _pass(name: str, python: str, place: str, cache: Path, *, skip: int = 0) -> Figures:
    ended = _run(python, "-m", "bench.data_pass", name, place, str(cache), str(ROWS), str(SEQ_LEN), str(skip))
    if ended.returncode:
        raise Failed((ended.stderr.strip() or f"ended with {ended.returncode}").rpartition("\n")[2][:200])
    told: Figures = json.loads(ended.stdout.rstrip().rpartition("\n")[2])
    return told


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not through after {TIMEOUT_S} s")


def _put_corpus(*stores: ObjectStore) -> list[str]:
    """The corpus in each store; keys of its shards."""
    random = np.random.default_rng(17)
    shards, digests = [], b""
    for number in range(NUM_SHARDS):
        tokens = random.integers(1, 50_000, SHARD_TOKENS, dtype=np.uint16)
        tokens[random.integers(SHARD_TOKENS, size=SHARD_TOKENS // 700)] = 0
        data, key = tokens.tobytes(), f"datasets/bench/shards/{number:05d}.bin"
        for store in stores:
            store.put(key, data)
        digests += page_digests(data)
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(ShardRef(key=key, num_tokens=len(tokens), size_bytes=len(data), sha256=sha256))
    for store in stores:
        pages = put_pages(store, "bench", digests)
        manifest = DatasetManifest(
            name="bench", dtype="uint16", eos_id=0, vocab_size=50_000, tokenizer_key="", shards=tuple(shards), pages=pages
        )
        store.put(manifest_key("bench"), manifest_to_json(manifest))
    return [shard.key for shard in shards]


def _make_form(name: str, keys: list[str], local: Path, remote: ObjectStore, python: str) -> None:
    """A peer's own form of the corpus, in the directory and on the server."""
    if name == "olmo_core":
        return
    here = str(Path(__file__).parents[1])
    making = f"import sys; sys.path.insert(0, {here!r})\nfrom pathlib import Path; from bench.data_peers import make_form\n"
    making += f"if __name__ == '__main__': make_form({name!r}, "
    making += f"[Path(name) for name in sys.argv[1:]], Path({str(local / name)!r}), {SEQ_LEN})"
    script = local.parent / f"make_{name}.py"
    script.write_text(making)
    ended = _run(python, str(script), *(str(local / key) for key in keys))
    if ended.returncode:
        raise Failed(f"its form of the corpus can't be made: {ended.stderr.strip().rpartition(chr(10))[2][:200]}")
    for path in sorted((local / name).rglob("*")):
        if path.is_file():
            remote.put(f"{name}/{path.relative_to(local / name)}", path.read_bytes())


def _none(why: str) -> Figures:
    return dict.fromkeys(FIGURES) | {"why": why}


def _print_table(results: dict[str, Figures]) -> None:
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{NUM_SHARDS * SHARD_TOKENS:,} tokens of uint16 in rows of {SEQ_LEN}, one process; {os.cpu_count()} cores, load {load}")
    print("in parentheses: how many times that of ours")
    for name, figures in results.items():
        if "why" in figures:
            print(f"{name}: {figures['why']}")
    if (share := results["ours"][WAIT]) is not None:
        print(f"ours, able to deliver four times what is taken: {share:.3%} of a step waits for data")
    width = max(map(len, FIGURES)) + 2
    shown = [name for name, figures in results.items() if "why" not in figures]
    print(" " * width + "".join(f"{name:>20}" for name in shown))
    for figure in FIGURES:
        cells = (f"{results[name][figure]:.3g} ({results[name][figure] / (results[shown[0]][figure] or 1):.2f})" for name in shown)
        print(f"{figure:<{width}}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()

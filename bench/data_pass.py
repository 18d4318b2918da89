"""One pass of one candidate of `bench/data.py`, in a process of its own: `python -m bench.data_pass WHO PLACE CACHE ROWS SEQ_LEN SKIP`.

The last line that it prints is an object with seconds, processor seconds, bytes received and tokens given. It ends early, with what it has
by then, where it is too slow.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LONGEST_S = 20


class Received:
    """Counts what Python's sockets of this process receive, whatever client reads from them."""

    def __init__(self) -> None:
        self.num_bytes = 0
        for name in ("recv", "recv_into"):
            setattr(socket.socket, name, self._counting(getattr(socket.socket, name)))

    def _counting(self, receive: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            found = receive(*arguments, **named)
            self.num_bytes += found if isinstance(found, int) else len(found)
            return found

        return counted


def _ours(place: str, cache: Path, rows: int, seq_len: int, skip: int) -> Iterator[Any]:
    from data_pipeline.config import DataConfig, StorageConfig
    from data_pipeline.dataset.manifest import load_manifest
    from data_pipeline.read.loader import build_loader
    from data_pipeline.store.open import open_store

    is_s3 = place.startswith("s3:")
    store = open_store(StorageConfig(root=place, endpoint_url=os.environ["AWS_ENDPOINT_URL"] if is_s3 else ""))
    manifest = load_manifest(store, "bench")
    loader = build_loader(
        manifests=(manifest,),
        config=DataConfig(dataset="bench", seq_len=seq_len, shuffle="blocks", shuffle_window=2),
        store=store,
        cache_dir=cache,
        batch_rows=rows,
        keeps_blocks=is_s3,
    )
    for step in range(skip + 1, manifest.num_samples(seq_len) // rows + 1):
        yield loader.batch(step).tokens_BT
    loader.close()


def _kept(cache: Path) -> int:
    """What was received by who does not read it from Python's sockets: all of it lies in the cache."""
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


def main() -> None:
    who, place, cache, *numbers = sys.argv[1:]
    rows, seq_len, skip = map(int, numbers)
    import torch

    torch.set_num_threads(1)
    if who == "ours":
        import data_pipeline.read.loader
        import data_pipeline.store.s3  # noqa: F401
    else:
        from bench import data_peers

        data_peers.admit(who)
    received, started_s, cpu_s = Received(), time.perf_counter(), time.process_time()
    if who == "ours":
        found = _ours(place, Path(cache), rows, seq_len, skip)
    else:
        found = data_peers.batches(who, place, Path(cache), rows=rows, seq_len=seq_len, skip=skip)
    num_tokens = next(found).numel()
    first_batch_s = time.perf_counter() - started_s
    if not skip:
        for batch in found:
            num_tokens += batch.numel()
            if time.perf_counter() - started_s > LONGEST_S:
                break
    told = {
        "first_batch_s": first_batch_s,
        "seconds": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - cpu_s,
        "received": max(received.num_bytes, _kept(Path(cache))),
        "tokens": num_tokens,
    }
    print("\n" + json.dumps(told), flush=True)
    os._exit(0)  # threads of a peer that goes on fetching


if __name__ == "__main__":
    main()

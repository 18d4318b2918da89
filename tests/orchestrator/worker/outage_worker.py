"""A worker with a fault: for the last rank alone the store is away while step 3's files are written. Started like a worker."""

import os

from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.worker.main import main

put = LocalStore.put


def put_unless_step_3(self: LocalStore, key: str, data: bytes) -> None:
    is_last_rank = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if is_last_rank and "/step-000000003-" in key:
        raise StoreUnavailable("no answer")
    put(self, key, data)


if __name__ == "__main__":
    LocalStore.put = put_unless_step_3  # type: ignore[method-assign]
    main()

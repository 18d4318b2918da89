"""A worker with a slow store: files of one checkpoint, by BRAID_TEST_SLOW_STEP that of step 3, are written only once there is a file `go`
in BRAID_HOME."""

import os
import time
from pathlib import Path

from data_pipeline.store.local import LocalStore
from orchestrator.worker.main import main

put = LocalStore.put


def put_once_allowed(self: LocalStore, key: str, data: bytes) -> None:
    while f"/step-{int(os.environ.get('BRAID_TEST_SLOW_STEP', 3)):09d}-" in key and not Path(os.environ["BRAID_HOME"], "go").exists():
        time.sleep(0.05)
    put(self, key, data)


if __name__ == "__main__":
    LocalStore.put = put_once_allowed  # type: ignore[method-assign]
    main()

"""What earlier attempts of a run left on the store, and nobody needs any more. No torch."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from data_pipeline.store.protocol import ObjectStore
from orchestrator.records.keys import CHECKPOINTS, LOGS, PROBES
from orchestrator.records.retention import is_abandoned, logs_to_delete

NUM_PARALLEL_DELETES = 16
ABANDONED_AFTER_S = 24 * 3600.0
"""After this long nobody is still at writing one object."""
log = logging.getLogger(__name__)


def remove_leftovers(store: ObjectStore, *, attempt: int) -> None:
    """Removes files of checkpoints that workers before `attempt` were killed over, and the logs of old attempts. Raises StoreError.

    Attempts before `attempt` are fenced: what they still wrote would not count.
    """
    aborted = store.abort_writes(CHECKPOINTS, partial(is_abandoned, attempt=attempt))
    logs = logs_to_delete((info.key for info in store.list(LOGS)), attempt=attempt)
    with ThreadPoolExecutor(NUM_PARALLEL_DELETES) as pool:
        list(pool.map(store.delete, logs))
    if aborted or logs:
        log.info("removed %d incomplete files of checkpoints and %d logs of earlier attempts", aborted, len(logs))


def remove_abandoned(store: ObjectStore, *, now_s: float) -> int:
    """Removes what killed writers left incomplete anywhere below the storage root `store`: how many there were. Raises StoreError."""
    before_s = now_s - ABANDONED_AFTER_S
    probes = [info.key for info in store.list(PROBES) if info.modified_at_s < before_s]
    for key in probes:
        store.delete(key)
    return len(probes) + store.abort_writes("", lambda key: True, begun_before_s=before_s)

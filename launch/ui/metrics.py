"""Every run of a storage root as Prometheus reads it, through its controller where one answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore, StoreError
from launch.errors import NoSuchRun, OnlyWeights
from launch.runs.goodput import read_goodput
from launch.runs.record import last_record, run_names
from launch.runs.view import RunView
from launch.ui.memo import Memo
from launch.ui.run_page import FindAny
from launch.ui.stored import Recorded, StoredRun
from orchestrator.codec import DecodeError
from orchestrator.errors import JournalBroken
from orchestrator.health.exposition import Exposed, exposition
from orchestrator.health.totals import Totals

NUM_PARALLEL_READS = 16
MADE_EVERY_S = 5.0
ACCOUNT_KEPT_S = 60.0
"""Of where a run's time goes: it takes reading all of its steps."""


class RunsMetrics:
    """Safe to use from any thread."""

    def __init__(self, storage: StorageConfig, store: ObjectStore, find: FindAny, *, clock: Callable[[], float]) -> None:
        self._storage, self._store, self._find, self._clock = storage, store, find, clock
        self._stored: dict[str, StoredRun] = {}
        self._made, self._accounts = Memo(MADE_EVERY_S), Memo(ACCOUNT_KEPT_S)
        self._ended: dict[str, tuple[Recorded, Exposed]] = {}

    def text(self) -> str:
        """Made anew no more often than every MADE_EVERY_S, however many ask. Raises StoreError."""
        text: str = self._made.get("", self._make)
        return text

    def _make(self) -> str:
        with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
            return exposition([one for one in pool.map(self._exposed, run_names(self._store)) if one is not None])

    def _exposed(self, name: str) -> Exposed | None:
        """None for weights alone, for what a submission that died left, and for a run whose records can't be read: it hides no other."""
        try:
            return self._readable(name)
        except (NoSuchRun, OnlyWeights, StoreError, JournalBroken, DecodeError):
            return None

    def _readable(self, name: str) -> Exposed:
        if name not in self._stored:
            self._stored[name] = StoredRun(self._storage, self._store, name)
        recorded = self._stored[name].read()
        known = self._ended.get(name)
        if known is not None and known[0] is recorded:
            return known[1]
        record = recorded.record
        view = RunView(record, lambda: self._find(record.identity, self._storage), clock=self._clock, read=lambda: record)
        exposed = Exposed(
            config=record.config,
            state=record.state,
            status=view.status(),
            now_s=self._clock(),
            newest=last_record(record),
            totals=self._accounts.get(name, lambda: self._totals(recorded)),
        )
        if record.has_ended:
            self._ended[name] = (recorded, exposed)
        return exposed

    def _totals(self, recorded: Recorded) -> Totals:
        return read_goodput(recorded.record, now_s=self._clock()).totals

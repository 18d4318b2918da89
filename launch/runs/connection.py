"""From this process to a cluster: connects, finds and starts controllers, asks them. The only file of launch/ that imports Ray.

Without an address it is the local cluster of this machine, which is started when something needs it and then reused.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from data_pipeline.config import StorageConfig
from launch.errors import NotOpen, NotReachable, NotStarted
from launch.status import KEYS, Status
from model.train.metrics import in_status
from orchestrator.config import RunConfig
from orchestrator.control.state import Terms
from orchestrator.identity import RunIdentity
from orchestrator.node.home import home_directory
from orchestrator.ray_backend import client
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.machines import machine_of

if TYPE_CHECKING:
    from data_pipeline.dataset.batches import Encode

ANSWER_WITHIN_S = 30.0
STATUS_WITHIN_S = 5.0
ENDED_WITHIN_S = 15.0
OPENS_WITHIN_S = 10.0
POLL_S = 0.1


class RunHandle:
    """Asks the controller of one run. Its methods raise NotReachable when it does not answer, NotOpen when it can't do its work."""

    def __init__(self, run: RunIdentity, actor: Any) -> None:
        self._run_identity = run
        self._run = run.name
        self._actor = actor

    def wait_until_open(self) -> None:
        """Waits until the run is controlled, or gives up after OPENS_WITHIN_S without a word. Raises NotOpen, NotReachable."""
        give_up_at_s = time.monotonic() + OPENS_WITHIN_S
        while (trouble := self._ask("trouble", within_s=ANSWER_WITHIN_S)) == "" and time.monotonic() < give_up_at_s:
            time.sleep(POLL_S)
        if trouble:
            raise NotOpen(trouble)

    def status(self, page: int = 1) -> Status:
        """Its `workers` are those of the page; the first is 1."""
        status: Status = self._ask("status", page, within_s=STATUS_WITHIN_S)
        if missing := (KEYS | in_status(None).keys()) - status.keys():
            raise NotOpen(str(client.another_version(self._run, f"its status lacks {', '.join(sorted(missing))}")))
        return status

    def ranks(self) -> list[dict[str, Any]]:
        """Every rank of the attempt by node, see `orchestrator.control.status.ranks_of`."""
        ranks: list[dict[str, Any]] = self._ask("ranks", within_s=STATUS_WITHIN_S)
        return ranks

    def stop(self, *, now: bool) -> None:
        """Returns once the wish is durable."""
        self._ask("stop", now, within_s=ANSWER_WITHIN_S)

    def resume(self, terms: Terms) -> None:
        """Withdraws the end that was decided. Returns once the wish is durable."""
        self._ask("resume", terms, within_s=ANSWER_WITHIN_S)

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        """What is new in a live log and the offset after it; None when it is not live any more."""
        chunk: tuple[bytes, int] | None = self._ask("read_log", rank, attempt, offset, within_s=ANSWER_WITHIN_S)
        return chunk

    def controls(self) -> bool:
        """Whether it has the run open, and needs to read nothing any more."""
        return self._ask("trouble", within_s=ANSWER_WITHIN_S) is None

    def end(self) -> int:
        """Kills the controller and the run's agents, their workers with them, and returns how many agents these were."""
        return client.end_actors(self._run_identity, self._actor)

    def _ask(self, method: str, *arguments: object, within_s: float) -> Any:
        if not client.is_connected():
            raise NotReachable(f"controller of {self._run}: its cluster is gone; see `braid status {self._run}`")
        import ray

        from orchestrator.ray_backend.controller_actor import NotReady

        try:
            return client.ask(self._run, self._actor, method, *arguments, within_s=within_s)
        except client.AnotherVersion as error:
            raise NotOpen(str(error)) from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, NotReady):
                raise NotOpen(str(cause)) from error
            raise NotReachable(
                f"controller of {self._run}: no answer ({cause or type(error).__name__}); look at `braid status {self._run}`, try again"
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterNode:
    node: str
    """Ray's id of it, which changes whenever its raylet restarts."""
    machine: str
    """What stays."""
    address: str
    is_alive: bool
    num_cpus: float
    num_gpus: float
    memory_bytes: float = 0.0
    """For tasks and objects, as it had them free when Ray began; 0 where it does not say."""


class Connection:
    """The cluster that this process is connected to, of which there is one at a time."""

    def nodes(self) -> list[ClusterNode]:
        import ray

        return [_node(plain) for plain in ray.nodes()]

    def encode(self, num_workers: int) -> Encode:
        """What tokenizes on the cluster, with so many tasks at once; 0 for one on every core."""
        from orchestrator.ray_backend.encoding import encode_on_ray

        return partial(encode_on_ray, num_workers=num_workers)

    def find_controller(self, run: RunIdentity, storage: StorageConfig) -> RunHandle | None:
        """None where nothing controls the run, and where the cluster is gone."""
        actor = client.find_controller(run, storage) if client.is_connected() else None
        return None if actor is None else RunHandle(run, actor)

    def find_unread(self, name: str, storage: StorageConfig) -> RunHandle | None:
        """The controller of the run of this name in this store, where the run's id can't be read."""
        found = client.find_by_store(name, storage) if client.is_connected() else None
        return None if found is None else RunHandle(*found)

    def start_controller(self, run: RunIdentity, storage: StorageConfig) -> RunHandle:
        """A new one, or the one that there is. Raises NotReachable, NotStarted among it."""
        try:
            return RunHandle(run, client.start_controller(run, storage))
        except client.ControllerFailed as error:
            raise NotStarted(str(error)) from error
        except client.ClusterUnreachable as error:
            raise NotReachable(str(error)) from error

    def wait_until_controller_is_gone(self, run: RunIdentity, storage: StorageConfig) -> None:
        """The controller of an ended run takes a moment to leave. Raises NotReachable when it stays."""
        give_up_at_s = time.monotonic() + ENDED_WITHIN_S
        while client.find_controller(run, storage) is not None:
            if time.monotonic() > give_up_at_s:
                raise NotReachable(
                    f"controller of {run.name}: has not left {ENDED_WITHIN_S:g} s after the run ended; try again, or see controller.log"
                )
            time.sleep(POLL_S)


@contextmanager
def connected(address: str, config: RunConfig, *, tell: Callable[[str], None]) -> Iterator[Connection]:
    """The cluster at `address`, or the local one, started with room for a run of `config` where there is none. Raises NotReachable."""
    if not address:
        _ensure_local_cluster(local_nodes_for(config), config.num_nodes, tell)
    with _connect(address) as connection:
        yield connection


@contextmanager
def reachable(address: str) -> Iterator[Connection | None]:
    """The cluster at `address`, or the local one; None where none answers, since looking starts nothing."""
    if not is_there(address):
        yield None
        return
    with _connect(address) as connection:
        yield connection


@contextmanager
def searching(
    run: RunIdentity, storage: StorageConfig, address: str, *, tell: Callable[[str], None]
) -> Iterator[Callable[[], RunHandle | None]]:
    """Yields what finds the controller of a run, as `searching_any` does."""
    with searching_any(address, tell=tell) as find:
        yield lambda: find(run, storage)


@contextmanager
def searching_any(address: str, *, tell: Callable[[str], None]) -> Iterator[Callable[[RunIdentity, StorageConfig], RunHandle | None]]:
    """Yields what finds the controller of a run, None for not found; each call connects anew to a cluster that was lost. From any thread.

    `tell` takes why a cluster that is there can't be asked, once for as long as it is the same.
    """
    with ExitStack() as opened:
        connection: Connection | None = None
        trouble = ""
        connecting = threading.Lock()

        def connect() -> Connection | None:
            nonlocal connection, trouble
            if connection is None or not client.is_connected():
                opened.close()
                connection, known, trouble = None, trouble, ""
                try:
                    connection = opened.enter_context(reachable(address))
                except NotReachable as error:
                    trouble = str(error)
                    if trouble != known:
                        tell(trouble)
            return connection

        def find(run: RunIdentity, storage: StorageConfig) -> RunHandle | None:
            with connecting:
                there = connect()
            return there.find_controller(run, storage) if there else None

        yield find


def leave_if_lost() -> None:
    """Leaves the cluster, if there was one, once its head is gone: Ray would go on asking for it, and may end this process."""
    if "ray" in sys.modules:
        client.is_connected()


def is_there(address: str) -> bool:
    """Whether there is a cluster to look for: one was named, or the local one runs."""
    return bool(address) or local_cluster.local_address(home_directory()) is not None


def local_nodes_for(config: RunConfig) -> int:
    """Nodes of a local cluster for this run. On the CPU they cost little, and one more can replace a lost one; GPUs are there only once."""
    return config.num_nodes + 1 if config.resources.device == "cpu" else 1


def start_local(num_nodes: int) -> str:
    """The address of the local cluster, started where there is none. Raises NotReachable."""
    try:
        return local_cluster.start_local_cluster(home_directory(), num_nodes)
    except local_cluster.LocalClusterFailed as error:
        raise NotReachable(str(error)) from error


def stop_local() -> None:
    """Kills the local cluster. Raises NotReachable where something of it survives."""
    try:
        local_cluster.stop_local_cluster(home_directory())
    except local_cluster.LocalClusterFailed as error:
        raise NotReachable(str(error)) from error


def _node(plain: dict[str, Any]) -> ClusterNode:
    resources = plain.get("Resources", {})
    return ClusterNode(
        node=plain["NodeID"],
        machine=machine_of(plain),
        address=plain["NodeManagerAddress"],
        is_alive=plain["Alive"],
        num_cpus=resources.get("CPU", 0.0),
        num_gpus=resources.get("GPU", 0.0),
        memory_bytes=resources.get("memory", 0.0) + resources.get("object_store_memory", 0.0),
    )


def _ensure_local_cluster(num_nodes: int, num_needed: int, tell: Callable[[str], None]) -> None:
    home = home_directory()
    if local_cluster.local_address(home) is None:
        tell(f"starting a local Ray cluster of {num_nodes} nodes; `braid cluster down` ends it")
        start_local(num_nodes)
    present = len(local_cluster.local_nodes(home))
    if present < num_needed:
        tell(
            f"the local cluster has only {present} of the {num_needed} nodes that this run needs; `braid cluster down`, then `braid resume`"
        )


@contextmanager
def _connect(address: str) -> Iterator[Connection]:
    home = home_directory()
    token = None if address else local_cluster.token_path(home)
    try:
        client.connect(address or local_cluster.local_address(home) or "", token_path=token)
    except client.ClusterUnreachable as error:
        raise NotReachable(str(error)) from error
    except KeyboardInterrupt:
        client.disconnect()  # a half-made connection would crash the interpreter at its end
        raise
    try:
        yield Connection()
    finally:
        client.disconnect()

"""A person's end of the cluster: connect, start a run's controller, find it again. Ray is imported only once something is to be done."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from data_pipeline.config import StorageConfig
from orchestrator.deadlines import CONNECT_WITHIN_S, CONTROLLER_LEAVES_WITHIN_S, CONTROLLER_STARTS_WITHIN_S
from orchestrator.fleet.names import agent_prefix
from orchestrator.fleet.transport import kill_agents
from orchestrator.identity import RunIdentity, is_same_store
from orchestrator.node.orders import WORKER_COMMAND
from orchestrator.ray_backend.names import NAMESPACE, controller_name, run_of_controller
from orchestrator.ray_backend.remote_errors import cause_of
from orchestrator.ray_backend.session import CantJoin, join_tried


class ClusterUnreachable(Exception):
    """No Ray cluster answers at the address. One line with the remedy."""


class ControllerFailed(ClusterUnreachable):
    """A new controller ended before it began, and will not be started again. One line with the cause."""


class AnotherVersion(ClusterUnreachable):
    """The controller was started by a version of braid that does not know the question. One line with the remedy."""


MISUNDERSTOOD = (AttributeError, TypeError, ImportError)
"""What a question ends in whose method, arguments or answer one of the two sides does not know; Ray's errors are of their cause's class."""


def connect(address: str, *, token_path: Path | None = None) -> None:
    """Connects this process to the Ray cluster whose head listens on `address` (HOST:PORT). Raises ClusterUnreachable.

    `token_path` names the token of a cluster that `start_local_cluster` started; any other uses what RAY_AUTH_MODE says, default none.
    """
    _probe(address)
    if token_path is not None:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path)
        os.environ["RAY_AUTH_MODE"] = "token"
    try:
        join_tried(address)
    except CantJoin as error:
        remedy = "`braid cluster down` ends what is left of it" if token_path is not None else "restart that cluster"
        raise ClusterUnreachable(f"Ray at {address} can't be joined: {error}; {remedy}, then `braid resume` its runs") from error


def disconnect() -> None:
    """Leaves the cluster; what runs there goes on."""
    import ray

    ray.shutdown()


def is_connected() -> bool:
    """False once the head refuses connections. This process has left then, since Ray would go on asking for it, loudly and without end."""
    import ray

    if not ray.is_initialized():
        return False
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_WITHIN_S).close()
    except ConnectionRefusedError:
        disconnect()
        return False
    except OSError:
        return True  # slow is not gone; Ray will tell
    return True


def start_controller(run: RunIdentity, storage: StorageConfig, *, worker_command: tuple[str, ...] = WORKER_COMMAND) -> Any:
    """The actor that controls the submitted run: a new one, or the one that does already. Returns when it runs.

    It outlives this process. Credentials are not passed on: it takes them from its own node's environment. Raises ClusterUnreachable,
    ControllerFailed among it.
    """
    import ray

    from orchestrator.ray_backend.controller_actor import controller_class

    _let_it_leave(run, storage)
    handle = controller_class().options(**controller_options(run)).remote(run.name, storage, worker_command, run.id)
    try:
        ask(run.name, handle, "ping", within_s=CONTROLLER_STARTS_WITHIN_S)  # until then it needs this process to be created
    except ray.exceptions.RayError as error:
        has_failed = isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed
        line = f"the controller of {run.name} did not start: {cause_of(error)}; is braid installed on every node?"
        raise (ControllerFailed if has_failed else ClusterUnreachable)(line) from error
    if (other := _other_store(run, handle, storage)) is not None:
        raise ClusterUnreachable(
            f"run {run.name}: this cluster has a run of the same name, of {other.root}, and an earlier version of braid began them; "
            "stop that one first"
        )
    return handle


def controller_options(run: RunIdentity) -> dict[str, Any]:
    """Of its actor: one for each run, which Ray starts again, on any node, as often as its process ends by itself."""
    return {
        "name": controller_name(run),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": -1,
        "num_cpus": 0,
    }


def find_controller(run: RunIdentity, storage: StorageConfig) -> Any | None:
    """The actor that controls the run; None when nothing does, because it has ended or runs elsewhere."""
    from orchestrator.ray_backend.named_actor import find_actor

    handle = find_actor(controller_name(run))
    return None if handle is None or _other_store(run, handle, storage) is not None else handle


def find_by_store(name: str, storage: StorageConfig) -> tuple[RunIdentity, Any] | None:
    """The controller of a run whose id is not known; None where none says that it works on this store."""
    import ray

    from orchestrator.ray_backend.named_actor import find_actor

    for actor in ray.util.list_named_actors(all_namespaces=True):
        run = run_of_controller(actor["name"]) if actor["namespace"] == NAMESPACE else None
        if run is None or run.name != name or (handle := find_actor(actor["name"])) is None:
            continue
        try:
            if is_same_store(ask(name, handle, "storage", within_s=CONNECT_WITHIN_S), storage):
                return run, handle
        except (ray.exceptions.RayError, AnotherVersion):
            continue
    return None


def end_actors(run: RunIdentity, controller: Any) -> int:
    """Kills the controller of a run for good, then its agents, whose workers end with them; returns how many agents these were."""
    import ray

    from orchestrator.ray_backend.ray_transport import RayTransport

    ray.kill(controller, no_restart=True)
    return kill_agents(RayTransport(), agent_prefix(run))


def _other_store(run: RunIdentity, handle: Any, storage: StorageConfig) -> StorageConfig | None:
    """The store of the run that a controller has, where that is another run of the same name. An id tells them apart already.

    One that does not answer, or of a version that does not know the question, is taken for the run's own.
    """
    import ray

    if run.id:
        return None
    try:
        served: StorageConfig = ask(run.name, handle, "storage", within_s=CONNECT_WITHIN_S)
    except (ray.exceptions.RayError, AnotherVersion):
        return None
    return None if is_same_store(served, storage) else served


def ask(run: str, controller: Any, method: str, *arguments: object, within_s: float) -> Any:
    """What the controller of a run answers. Raises RayError where it does not, AnotherVersion."""
    import ray

    try:
        return ray.get(getattr(controller, method).remote(*arguments), timeout=within_s)
    except MISUNDERSTOOD as error:
        raise another_version(run, f"{method}: {cause_of(getattr(error, 'cause', None) or error)}") from error


def another_version(run: str, detail: str) -> AnotherVersion:
    remedy = f"stop the run with that version, or restart its Ray cluster, then `braid resume {run}`"
    return AnotherVersion(
        f"controller of {run}: was started by another version of braid and does not understand this one ({detail}); {remedy}"
    )


def _let_it_leave(run: RunIdentity, storage: StorageConfig) -> None:
    """Waits until a controller whose run has just ended is gone: it would not take the run up again."""
    import ray

    deadline_s = time.monotonic() + CONTROLLER_LEAVES_WITHIN_S
    while time.monotonic() < deadline_s and (handle := find_controller(run, storage)) is not None:
        try:
            if not ask(run.name, handle, "is_leaving", within_s=CONTROLLER_LEAVES_WITHIN_S):
                return
        except ray.exceptions.RayError:
            return
        time.sleep(0.05)


def _probe(address: str) -> None:
    """Whether anything listens there. Ray itself would retry for over a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterUnreachable(f"--address {address}: use HOST:PORT of the Ray head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or leave --address out"
        ) from error

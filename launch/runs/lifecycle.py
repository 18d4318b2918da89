"""Starts, stops and resumes runs: the object store says what is to be done, a controller on the cluster does it."""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore, StoreError
from launch.config.storage import as_command, storage_hint
from launch.errors import NotOpen, NotReachable, NotStarted, WrongMoment
from launch.runs.changes import can_be_withdrawn, changed
from launch.runs.connection import Connection, RunHandle, connected, is_there
from launch.runs.node_memory import lack_of_memory
from launch.runs.preflight import prepare_dataset, settle_start
from launch.runs.record import (
    RunRecord,
    add_config,
    create_run,
    read_run,
    recorded_status,
    refuse_existing,
    run_store_of,
    was_submitted,
    withdraw_run,
)
from launch.runs.unread import UNREADABLE, stop_unread
from launch.runs.unseen import stop_unseen
from launch.runs.view import RunView, statuses
from launch.status import Status
from orchestrator.config import RunConfig
from orchestrator.control.events import ResumeRequested
from orchestrator.control.history import open_history
from orchestrator.control.state import Stage, Terms, terms_of
from orchestrator.identity import RunIdentity
from orchestrator.records.holds import release_start

Tell = Callable[[str], None]
"""Takes one line for the person who waits."""
POLL_S = 0.3
"""Between two looks at a run that stops."""


def submit(config: RunConfig, *, address: str, tell: Tell) -> None:
    """Creates the run and starts its controller on the cluster at `address`, or on the local one where that is empty.

    Where no controller can begin, the name is given back.
    Raises RunExists, NotReachable, DataError, StoreError.
    """
    store = open_store(as_command(config.storage))
    refuse_existing(store, config.name)
    try:
        config = settle_start(config, store)
        prepare_dataset(config, store, tell=tell)
        with connected(address, config, tell=tell) as connection:
            if warning := lack_of_memory(config, connection.nodes()):
                tell(f"warning: {warning}")
            run = create_run(store, config, at_s=time.time())
            _begin(connection, store, config, run, address)
    except BaseException:
        _let_go(store, config)
        raise


def _begin(connection: Connection, store: ObjectStore, config: RunConfig, run: RunIdentity, address: str) -> None:
    """Starts the controller of a run that was submitted just now; a run that can't begin gives its name back. Raises NotStarted."""
    try:
        _start_controller(connection, run, config.storage, address)
    except NotStarted as error:
        withdraw_run(store, config)
        raise NotStarted(f"run {config.name}: was not begun, and its name is free again: {error}") from error


def _let_go(store: ObjectStore, config: RunConfig) -> None:
    """Of what a run was to begin from that has not come to be. The store may be what is wrong; then the hold lapses by itself."""
    with suppress(StoreError):
        if not was_submitted(run_store_of(store, config.name)):
            release_start(store, config)


def resume(storage: StorageConfig, name: str, overrides: Sequence[str], *, address: str, tell: Tell) -> None:
    """Goes on with an ended run, changed by `overrides`; withdraws a stop that is under way; gives a run without a controller a new one.

    What a run without a checkpoint began from is held anew, or said to be gone.
    Raises WrongMoment, ConfigError, NoSuchRun, NotReachable, StoreError.
    """
    record = read_run(storage, name)
    if overrides and not record.has_ended:
        raise WrongMoment(f"run {name}: is {record.state.label}, and settings change only between two stretches; `braid stop {name}` first")
    config = changed(record, overrides) if record.has_ended else record.config
    with connected(address, config, tell=tell) as connection:
        if record.has_ended:
            connection.wait_until_controller_is_gone(record.identity, storage)
            if not record.state.committed_step:
                settle_start(config, record.store)
            version = add_config(record.run_store, config) if overrides else record.version
            _ask_in_journal(record, terms_of(config, version))
        elif (handle := connection.find_controller(record.identity, storage)) is not None:
            _go_on(handle, record, tell)
            return
        elif can_be_withdrawn(record.state):
            _ask_in_journal(record, terms_of(config, record.version))
        _start_controller(connection, record.identity, _as_run(storage, config), address)


def _as_run(storage: StorageConfig, config: RunConfig) -> StorageConfig:
    """The store as a controller is to use it: it has the run's patience, not a command's."""
    return dataclasses.replace(storage, deadline_s=config.storage.deadline_s)


def _go_on(handle: RunHandle, record: RunRecord, tell: Tell) -> None:
    """What is left to do where a controller has the run."""
    if can_be_withdrawn(record.state):
        handle.resume(terms_of(record.config, record.version))
        tell(f"run {record.name}: goes on; its stop is withdrawn")
    else:
        tell(f"run {record.name}: is {record.state.label} already")


def _ask_in_journal(record: RunRecord, terms: Terms) -> None:
    open_history(record.run_store).append(ResumeRequested(at_s=time.time(), terms=terms))


def stop(storage: StorageConfig, name: str, *, now: bool, address: str, tell: Tell) -> Status:
    """Returns the status of the ended run. A run without a controller gets one, which finds its workers and ends them.

    Where no cluster can be seen, the stop is written to the store, and the run has ended only where nothing of it can be running: see
    `unseen`. A cluster that was named and does not answer is passed over with `now` only, since it might be named wrongly.
    Raises WrongMoment, NoSuchRun, NotReachable, Abandoned, Superseded, StoreError.
    """
    try:
        record = read_run(storage, name)
    except UNREADABLE as error:
        return stop_unread(storage, name, error, now=now, address=address, tell=tell)
    if record.has_ended:
        raise WrongMoment(f"run {name}: has {record.state.label} already; nothing is left to stop")
    if not is_there(address):
        return _stop_unseen(record, f"no cluster runs here; if {name} runs on another one, say which with --address", now=now, tell=tell)
    with ExitStack() as opened:
        try:
            connection = opened.enter_context(connected(address, record.config, tell=tell))
        except NotReachable as error:
            if address and not now:
                raise NotReachable(f"{error}; if it is gone for good, `braid stop {name} --now{storage_hint(storage)}`") from error
            return _stop_unseen(record, str(error), now=now, tell=tell)
        handle = connection.find_controller(record.identity, storage) or connection.start_controller(
            record.identity, _as_run(storage, record.config)
        )
        _ask_to_stop(handle, record, now=now)
        view = RunView(record, lambda: connection.find_controller(record.identity, storage), tell=tell)
        tell(f"stopping {name} …")
        return collections.deque(statuses(view.followed_status, poll_s=POLL_S), maxlen=1)[0]


def _stop_unseen(record: RunRecord, trouble: str, *, now: bool, tell: Tell) -> Status:
    tell(trouble)
    if known := stop_unseen(record, now=now):
        tell(
            f"run {record.name}: workers of it may train on: {known}. The stop is recorded and their attempt is fenced: they end at their "
            "next checkpoint, which does not count"
        )
    return recorded_status(read_run(record.storage, record.name), time.time())


def _ask_to_stop(handle: RunHandle, record: RunRecord, *, now: bool) -> None:
    """A controller leaves when its run has ended, maybe before it answers; then the journal has the answer. Raises NotReachable."""
    try:
        handle.stop(now=now)
    except NotReachable:
        state = read_run(record.storage, record.name).state
        has_obeyed = state.stop_wanted and (state.ending is not None or not now)
        if state.stage is not Stage.ENDED and not has_obeyed:
            raise


def lost_its_last_checkpoint(status: Status) -> bool:
    """Whether the run was stopped on request and its workers failed while they saved."""
    return status["state"] == "stopped" and "checkpoint failed" in status["reason"]


def _start_controller(connection: Connection, run: RunIdentity, storage: StorageConfig, address: str) -> None:
    """Starts a controller and waits until it controls the run. What can't be done yet stays asked for, in the journal."""
    try:
        connection.start_controller(run, storage).wait_until_open()
    except NotStarted:
        raise
    except NotOpen as error:
        restart = "restart the cluster with them" if address else "`braid cluster down`"
        remedy = f"was the cluster started without these credentials? {restart}, then `braid resume {run.name}{storage_hint(storage)}`"
        raise NotOpen(f"run {run.name}: is submitted, but its controller can't open it: {error}; {remedy}") from error
    except NotReachable as error:
        raise NotReachable(
            f"run {run.name}: is submitted, but nothing controls it: {error}; then `braid resume {run.name}{storage_hint(storage)}`"
        ) from error

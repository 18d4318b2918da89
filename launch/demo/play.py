"""`braid demo`: a run is hurt again and again on a cluster of three nodes, recovers and finishes; then it is told how that went."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from data_pipeline.config import StorageConfig
from data_pipeline.dataset.build import build_dataset
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.sources.open import open_corpus
from data_pipeline.store.open import open_store
from launch.config.load import load_config
from launch.demo.home import processes_of_home, temporary_home, workers_left
from launch.demo.promises import Played, losses_of, shortcomings
from launch.demo.script import SCRIPT, Fault, Injected, next_fault
from launch.demo.store import demo_store
from launch.runs.connection import stop_local
from launch.runs.goodput import answer, read_goodput
from launch.runs.inspect import proof_of
from launch.runs.lifecycle import submit
from launch.runs.record import read_run
from launch.runs.view import open_view, statuses
from launch.show.console import console as plain_console
from launch.show.follow import show
from launch.show.goodput import goodput_view
from launch.show.plot import plot, rolling_mean
from launch.show.render import incidents_view, short_node
from launch.status import Status
from orchestrator.config import RunConfig
from orchestrator.node.processes import look_at, send
from orchestrator.ray_backend.local.cluster import kill_node, local_nodes
from orchestrator.records.ledger import read_ledger

POLL_S = 0.2
TIME_LIMIT_S = 600.0
SMOOTHED_STEPS = 8


def run_demo(*, store_kind: str, corpus: Path | None, num_steps: int, keep: bool, script: tuple[Fault, ...] = SCRIPT) -> int:
    """The exit status: 0 when everything went as promised. Raises UserError, StoreError, DataError."""
    began_s = time.monotonic()
    console = plain_console()
    signal.signal(signal.SIGTERM, _exit_on_signal)
    with temporary_home(keep=keep, console=console) as home:
        with demo_store(store_kind, home) as storage, _local_cluster():
            played = _play(_prepare(storage, corpus, num_steps, console), home, script, console)
        played = replace(played, left_behind=(*played.left_behind, *processes_of_home(home)))
    return _summarize(played, time.monotonic() - began_s, console)


@contextmanager
def _local_cluster() -> Iterator[None]:
    """Whatever cluster the block starts ends with it."""
    try:
        yield
    finally:
        stop_local()


def _prepare(storage: StorageConfig, corpus: Path | None, num_steps: int, console: Console) -> RunConfig:
    """The configuration of a run whose data is there."""
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    overrides = [
        f"name={name}",
        f"storage.root={storage.root}",
        f"storage.endpoint_url={storage.endpoint_url}",
        f"train.num_steps={num_steps}",
    ]
    if corpus is None:
        return load_config("tiny", overrides)
    config = load_config("tiny", [*overrides, f"data.dataset={name}"])
    console.print(f"building a dataset from {corpus} …")
    documents = open_corpus(corpus)
    tokenizer = train_tokenizer(documents, config.model.vocab_size)
    build_dataset(store=open_store(storage), name=name, corpus=documents, tokenizer=tokenizer, progress=lambda _: None)
    return config


def _play(config: RunConfig, home: Path, script: tuple[Fault, ...], console: Console) -> Played:
    """Submits the run, hurts it, watches it to its end, and reads what it left before its store goes away."""
    submit(config, address="", tell=console.print)
    injected: list[Injected] = []
    with open_view(config.storage, config.name, "") as view:
        seen = _until_too_late(statuses(view.status, poll_s=POLL_S))
        status = show(_hurting(seen, home, script, injected, console), console)
    record = read_run(config.storage, config.name)
    proof = proof_of(record) if record.state.committed_step else None
    return Played(
        status=status,
        script=script,
        injected=tuple(injected),
        losses=losses_of(read_ledger(record.run_store)),
        goodput=answer(read_goodput(record, now_s=time.time())),
        verified=proof is not None and proof.ok,
        proof=proof.line if proof else "nothing to verify: no checkpoint was committed",
        left_behind=workers_left(record.identity),
    )


def _until_too_late(seen: Iterator[Status]) -> Iterator[Status]:
    """Passes on what it sees, for as long as a demo may take."""
    give_up_at_s = time.monotonic() + TIME_LIMIT_S
    for status in seen:
        yield status
        if time.monotonic() > give_up_at_s:
            return


def _hurting(seen: Iterator[Status], home: Path, script: tuple[Fault, ...], injected: list[Injected], console: Console) -> Iterator[Status]:
    """Passes on what it sees, and injects the faults when their time has come."""
    for status in seen:
        fault = next_fault(status, injected, script)
        if fault is not None:
            injected.append(_inject(fault, status, home, console))
        yield status


def _inject(fault: Fault, status: Status, home: Path, console: Console) -> Injected:
    """Hurts a worker away from the head node, whose loss would take the whole cluster with it."""
    head = next(node.node for node in local_nodes(home) if node.is_head)
    victim = next(worker for worker in status["workers"] if worker["node"] != head)
    node, rank, at_s, committed_step = victim["node"], victim["rank"], time.time(), status["last_committed_step"]

    def hurt(how: str, whom: str) -> None:
        console.print(Text.assemble((how, "bold red"), f" {whom} after step {status['step']}"))

    if fault is Fault.AGENTS:
        agents = sorted(process.parent for worker in status["workers"] if (process := look_at(worker["pid"])) is not None)
        hurt("kill -9", f"of every agent (processes {', '.join(map(str, agents))})")
        for agent in agents:
            send(agent, signal.SIGKILL)
        return Injected(fault=fault, node=None, rank=None, at_s=at_s, committed_step=committed_step)
    if fault is Fault.WORKER:
        hurt("kill -9", f"of rank {rank} (process {victim['pid']})")
        send(victim["pid"], signal.SIGKILL)
    else:
        hurt("power cut", f"of node {short_node(node)} with rank {rank}")
        kill_node(home, node)
    return Injected(fault=fault, node=node, rank=rank, at_s=at_s, committed_step=committed_step)


def _summarize(played: Played, took_s: float, console: Console) -> int:
    """Prints what happened and what fell short; returns the exit status."""
    console.rule("what happened")
    console.print(incidents_view(played.status["incidents"]))
    if len(played.losses) > 1 and all(map(math.isfinite, played.losses)):
        label = f"loss, steps 1 to {len(played.losses)}, mean of {SMOOTHED_STEPS}"
        console.print("\n".join(plot(rolling_mean(played.losses, SMOOTHED_STEPS), label=label)), highlight=False)
    console.rule("where its time went")
    console.print(goodput_view(played.goodput))
    console.print(played.proof, soft_wrap=True)
    found = shortcomings(played)
    for line in found:
        console.print(Text.assemble(("fell short:", "bold red"), f" {line}"), soft_wrap=True)
    if not found:
        console.print(Text.assemble(("everything as promised", "bold green"), f", in {took_s:.0f} s"))
    return 1 if found else 0


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Ends the demo as an error would, so that everything is cleaned up on the way out."""
    raise SystemExit(128 + number)

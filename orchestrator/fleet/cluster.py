"""AgentCluster: the Cluster protocol with one agent for each node that the run holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from orchestrator.attended import AttendedClock
from orchestrator.config import RunConfig
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.desired import Desired
from orchestrator.control.placement import Node
from orchestrator.deadlines import ATTENDED_GAP_S, CLOSE_POLL_S
from orchestrator.fleet.link import AgentLink, LinkState
from orchestrator.fleet.names import agent_name, agent_prefix, node_of
from orchestrator.fleet.orders import choose_rendezvous, orders_of
from orchestrator.fleet.slots import NodeList
from orchestrator.fleet.spares import Spares
from orchestrator.fleet.transport import AgentGone, AgentUnreachable, Ref, Transport
from orchestrator.identity import RunIdentity
from orchestrator.messages import MirrorPlace, Mode, Rendezvous
from orchestrator.node.agent import AgentIdentity
from orchestrator.node.orders import WORKER_COMMAND, AgentOrder
from orchestrator.records.nodes import GpusSeen, NodeEvent, Standing

MESSAGES_IN_A_LOOK = 200
"""Calls that one look begins, and answers that it takes in, at most: what is left is for the next, which follows at once.

So a look stays short where a thousand agents have something to say at the same moment.
"""
STARTS_IN_A_LOOK = 50
"""Agents that one look starts at most: an order to start one takes Ray some 4 ms."""
log = logging.getLogger(__name__)


class Registry(Protocol):
    """What is known of machines beyond this run: `fleet.registry_watch`. Neither blocks."""

    @property
    def standings(self) -> Mapping[str, Standing]:
        """By machine."""

    def record(self, events: Iterable[NodeEvent]) -> None:
        """Sees to it that they are there, and returns."""


class AgentCluster:
    """For one controller's thread; `read_log` may be called from any. Made by `build_agent_cluster`."""

    def __init__(
        self,
        config: RunConfig,
        *,
        run: RunIdentity,
        transport: Transport,
        registry: Registry,
        nodes: NodeList,
        clock: AttendedClock,
        wall_clock: Callable[[], float],
        worker_command: tuple[str, ...],
    ) -> None:
        self._config = config
        self._run = run
        self._transport = transport
        self._registry = registry
        self._nodes = nodes
        self._clock = clock
        self._wall_clock = wall_clock
        self._worker_command = worker_command
        self._epoch = 0
        self._desired = Desired()
        self._links: dict[str, AgentLink] = {}
        """By node. Where an agent is on its way out, one that is to follow it has to wait."""
        self._calls: dict[Ref, AgentLink] = {}
        self._rendezvous: Rendezvous | None = None
        """Of the desired attempt; None until it is known."""
        self._told_gpus: set[str] = set()
        """Nodes whose GPUs the registry was told of."""
        self._orders: Mapping[str, AgentOrder] = {}
        """By node."""
        self._mirrors: Mapping[str, MirrorPlace] = {}
        """By node of the desired attempt, where agents keep copies of snapshots; empty until all of them have spoken."""
        self._ordered: tuple[Desired, Rendezvous | None, Mapping[str, MirrorPlace]] | None = None
        """What the orders were made of."""
        self._spares = Spares(config.recovery.spares)
        self._to_start: Sequence[str] = ()
        """Nodes whose agent is desired, and that no look has come to yet."""
        self._is_settled = False
        """Every agent that is desired has been started, and has its order."""

    # --- the protocol --------------------------------------------------------------------------------------------------

    def attach(self, *, epoch: int, desired: Desired) -> None:
        self._epoch = epoch
        self._desired = replace(self._desired, attempt=desired.attempt)
        for name in self._transport.agent_names(agent_prefix(self._run)):
            node, agent = node_of(name), self._transport.find_agent(name)
            if node is not None and agent is not None:
                self._links[node] = self._link(node, agent, is_adopted=True)
            elif agent is not None:
                self._transport.kill(agent)
        self._spares.adopt([node for node in self._links if node not in desired.held])
        if not desired.may_start:
            missing = [node for node in desired.held if node not in self._links]
            self._links |= {node: self._link(node, None, is_adopted=True) for node in missing}
        self._make_desired(desired)

    def reconcile(self, desired: Desired) -> None:
        if desired != self._desired:
            self._make_desired(desired)
        elif not self._is_settled:
            self._settle()

    def poll(self, *, timeout_s: float) -> Observation:
        if self._exchange(0.0 if self._to_start else timeout_s):
            self._settle()
        nodes = self._list_nodes()
        self._tell_gpus(nodes)
        self._choose_spares(nodes)
        return Observation(
            at_s=self._wall_clock(),
            nodes=nodes,
            agents=(*(link.seen() for link in self._links.values()), *map(AgentSeen, self._to_start)),
            standings=self._registry.standings,
        )

    def step_down(self) -> None:
        told = {ref for link in self._links.values() if (ref := link.step_down()) is not None}
        deadline_s = self._transport.now() + self._config.recovery.step_down_timeout_s
        while told and self._transport.now() < deadline_s:
            told -= set(self._transport.wait(deadline_s - self._transport.now(), MESSAGES_IN_A_LOOK))

    def close(self) -> None:
        """Agents that no link knows are looked for too."""
        for name in self._transport.agent_names(agent_prefix(self._run)):
            node, agent = node_of(name), self._transport.find_agent(name)
            if node is not None and agent is not None and node not in self._links:
                self._links[node] = self._link(node, agent, is_adopted=True)
        for link in self._links.values():
            link.dismiss()
        while self._links:
            self._exchange(CLOSE_POLL_S)

    def read_log(self, rank: int, attempt: int, offset: int, limit: int, timeout_s: float) -> tuple[bytes, int] | None:
        """From the worker's node; None when it can't be had there: look in the store."""
        desired = self._desired
        index = rank // desired.workers_per_node if desired.workers_per_node else -1
        if attempt != desired.attempt or not 0 <= index < len(desired.placement):
            return None
        link = self._links.get(desired.placement[index])
        if link is None or link.agent is None:
            return None
        try:
            found: tuple[bytes, int] = self._transport.ask(link.agent, "read_log", rank, offset, limit, timeout_s=timeout_s)
        except (AgentGone, AgentUnreachable):
            return None
        return found

    # --- making it so --------------------------------------------------------------------------------------------------

    def _make_desired(self, desired: Desired) -> None:
        """An agent that was lost stays so for its attempt; a newer attempt starts it anew."""
        if desired.findings != self._desired.findings:
            self._registry.record(desired.findings)
        is_newer = desired.attempt > self._desired.attempt
        if is_newer:
            self._rendezvous, self._mirrors = None, {}
            self._spares.begin_attempt()
        self._desired = desired
        self._let_go(is_newer=is_newer)
        self._settle()

    def _let_go(self, *, is_newer: bool = False) -> None:
        """Of agents that are not desired, and in a newer attempt of those that are of no use to it."""
        held = set(self._held())
        for link in self._links.values():
            if link.node not in held or (is_newer and link.is_over):
                link.dismiss()

    def _held(self) -> tuple[str, ...]:
        """Nodes whose agent is to exist."""
        held = self._desired.held
        return (*held, *(node for node in self._spares.nodes if node not in held)) if held else ()

    def _choose_spares(self, nodes: tuple[Node, ...]) -> None:
        """While an attempt is under way: between two, what is held stays as it is, for the next to find."""
        if self._desired.mode is Mode.RUN and self._spares.choose(
            nodes,
            standings=self._registry.standings,
            slots=self._desired.workers_per_node,
            placement=self._desired.placement,
            over=[node for node, link in self._links.items() if link.state is LinkState.LOST],
            used=[node for node, link in self._links.items() if link.report is not None and link.report.attempt],
        ):
            self._let_go()
            self._settle()

    def _settle(self) -> None:
        """Begins what can be begun now."""
        desired = self._desired
        missing = [node for node in self._held() if node not in self._links]
        for node in missing[:STARTS_IN_A_LOOK]:
            self._links[node] = self._start(node)
        self._to_start = missing[STARTS_IN_A_LOOK:]
        if desired.mode is Mode.RUN and self._rendezvous is None:
            self._rendezvous = self._find_rendezvous()
        is_complete = self._find_mirrors()
        self._give_orders()
        self._is_settled = not self._to_start and (desired.mode is not Mode.RUN or (self._rendezvous is not None and is_complete))

    def _give_orders(self) -> None:
        """They are made anew only where what they follow from has changed."""
        decisive = replace(self._desired, may_start=False, findings=()), self._rendezvous, self._mirrors
        if decisive != self._ordered:
            desired, rendezvous, mirrors = self._ordered = decisive
            self._orders = orders_of(desired, rendezvous, self._config, mirrors=mirrors)
        for node, link in self._links.items():
            link.order(self._orders.get(node))

    def _find_rendezvous(self) -> Rendezvous | None:
        """Agents that an earlier controller started are heard first: it may have chosen a place already."""
        links = [self._links[node] for node in self._desired.placement if node in self._links]
        if any(link.is_adopted and link.state is LinkState.ASKED for link in links):
            return None
        reports = {link.node: link.report for link in links if link.report is not None and not link.is_over}
        return choose_rendezvous(self._desired.attempt, self._desired.placement, reports)

    def _find_mirrors(self) -> bool:
        """Whether every agent of the attempt has spoken: what one says is passed on before the others do."""
        links = [self._links[node] for node in self._desired.placement if node in self._links]
        reports = [link.report for link in links if link.report is not None and not link.is_over]
        self._mirrors = {report.node: report.mirror for report in reports if report.mirror is not None}
        return len(reports) == len(self._desired.placement)

    def _start(self, node: str) -> AgentLink:
        config = self._config
        num_workers = _workers_per_node(config)
        identity = AgentIdentity(
            run=self._run,
            node=node,
            storage=config.storage,
            worker_command=self._worker_command,
            num_standbys=num_workers if config.recovery.standbys else 0,
        )
        num_gpus = num_workers if config.resources.device == "cuda" else 0
        name = agent_name(self._run, node)
        agent = self._transport.start_agent(name, identity, config.recovery, epoch=self._epoch, num_gpus=num_gpus)
        return self._link(node, agent, is_adopted=False)

    def _link(self, node: str, agent: Any | None, *, is_adopted: bool) -> AgentLink:
        return AgentLink(
            node,
            agent,
            is_adopted=is_adopted,
            epoch=self._epoch,
            transport=self._transport,
            clock=self._clock,
            recovery=self._config.recovery,
        )

    # --- watching ------------------------------------------------------------------------------------------------------

    def _exchange(self, timeout_s: float) -> bool:
        """Returns with the first news, or after the timeout. True when an agent has ended: another may have to follow it."""
        left = MESSAGES_IN_A_LOOK
        for link in self._links.values():
            left -= self._begin_calls_of(link) if left > 0 else 0
        is_over, deadline_s = left <= 0, self._transport.now() + timeout_s
        while not is_over and (arrived := self._transport.wait(deadline_s - self._transport.now(), left)):
            self._clock.look()
            left -= len(arrived)
            is_over = left <= 0 or self._transport.now() >= deadline_s  # where answers come faster than they are taken in
            for ref in arrived:
                link = self._calls.pop(ref)
                is_over |= link.take(ref)
                self._begin_calls_of(link)
        self._clock.look()
        for link in self._links.values():
            link.look_at_the_clock()
        ended = [node for node, link in self._links.items() if link.state is LinkState.ENDED]
        for node in ended:
            del self._links[node]
        return bool(ended)

    def _begin_calls_of(self, link: AgentLink) -> int:
        """How many it began."""
        begun = link.calls()
        for ref in begun:
            self._calls[ref] = link
        return len(begun)

    def _tell_gpus(self, nodes: tuple[Node, ...]) -> None:
        """Once for each agent, when it first says which GPUs it holds."""
        new = [link for link in self._links.values() if link.report is not None and link.report.gpus and link.node not in self._told_gpus]
        if new:
            machines = {node.node: node.machine for node in nodes}
            seen = {link.node: link.report.gpus for link in new if link.report is not None and link.node in machines}
            self._registry.record(GpusSeen(at_s=self._wall_clock(), machine=machines[node], gpus=gpus) for node, gpus in seen.items())
            self._told_gpus.update(seen)

    def _list_nodes(self) -> tuple[Node, ...]:
        held = [node for node, link in self._links.items() if link.state is not LinkState.LOST]
        lost = [node for node, link in self._links.items() if link.state is LinkState.LOST]
        refused = [node for node in lost if self._links[node].report is None]
        return self._nodes.nodes(held=held, lost=lost, refused=refused)


def build_agent_cluster(
    config: RunConfig,
    transport: Transport,
    *,
    registry: Registry,
    run_id: str = "",
    worker_command: tuple[str, ...] = WORKER_COMMAND,
    wall_clock: Callable[[], float] = time.time,
) -> AgentCluster:
    clock = AttendedClock(transport.now, max_gap_s=ATTENDED_GAP_S)
    nodes = NodeList(
        transport,
        wanted=_workers_per_node(config),
        counts_gpus=config.resources.device == "cuda",
        gpu_release_timeout_s=config.recovery.gpu_release_timeout_s,
        clock=transport.now,
    )
    return AgentCluster(
        config,
        run=RunIdentity(name=config.name, id=run_id),
        transport=transport,
        registry=registry,
        nodes=nodes,
        clock=clock,
        wall_clock=wall_clock,
        worker_command=worker_command,
    )


def _workers_per_node(config: RunConfig) -> int:
    return min(config.resources.workers_per_node, config.parallel.world_size)

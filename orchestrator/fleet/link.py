"""The controller's end of one agent: what it is told, what it last said, and whether it still exists. Never blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from orchestrator.attended import AttendedClock
from orchestrator.config import RecoveryConfig
from orchestrator.control.cluster import AgentSeen
from orchestrator.control.summary import Summary, summarise
from orchestrator.deadlines import ASK_AGAIN_AFTER_S, REPORT_EVERY_S
from orchestrator.errors import Superseded
from orchestrator.fleet.transport import AgentGone, AgentUnreachable, Ref, StaleController, Transport
from orchestrator.messages import AgentReport, Mode
from orchestrator.node.orders import AgentOrder

log = logging.getLogger(__name__)


class LinkState(Enum):
    ASKED = "asked"
    """The agent was started, or found; it has not said a word yet."""
    ALIVE = "alive"
    LOST = "lost"
    """It does not exist (any more), or said no word in time."""
    GIVEN_UP = "given up"
    """It has not confirmed in time that its workers are gone."""
    LEAVING = "leaving"
    """It was told to end its workers and to leave."""
    KILLED = "killed"
    """It is being ended by force."""
    ENDED = "ended"
    """Nothing of it is left that could be reached."""


class Signal(Enum):
    """What moves a link from one state to another."""

    SPOKE = "spoke"
    GONE = "gone"
    SILENT = "silent"
    """No first word within `recovery.agent_timeout_s`."""
    UNCONFIRMED = "unconfirmed"
    """No word that its workers are gone within `recovery.give_up_timeout_s` of the order, or later, where it still talks."""
    DISMISSED = "dismissed"
    """The run does not want the agent any more."""
    LEFT = "left"
    """It confirms that it has ended its workers and put away their logs."""
    OVERDUE = "overdue"
    """It did not leave, or was not gone, within `recovery.give_up_timeout_s`."""


TRANSITIONS = {
    (LinkState.ASKED, Signal.SPOKE): LinkState.ALIVE,
    (LinkState.ASKED, Signal.GONE): LinkState.LOST,
    (LinkState.ASKED, Signal.SILENT): LinkState.LOST,
    (LinkState.ASKED, Signal.UNCONFIRMED): LinkState.GIVEN_UP,
    (LinkState.ASKED, Signal.DISMISSED): LinkState.LEAVING,
    (LinkState.ALIVE, Signal.GONE): LinkState.LOST,
    (LinkState.ALIVE, Signal.UNCONFIRMED): LinkState.GIVEN_UP,
    (LinkState.ALIVE, Signal.DISMISSED): LinkState.LEAVING,
    (LinkState.LOST, Signal.DISMISSED): LinkState.KILLED,
    (LinkState.GIVEN_UP, Signal.DISMISSED): LinkState.KILLED,
    (LinkState.LEAVING, Signal.LEFT): LinkState.KILLED,
    (LinkState.LEAVING, Signal.OVERDUE): LinkState.KILLED,
    (LinkState.LEAVING, Signal.GONE): LinkState.KILLED,
    (LinkState.KILLED, Signal.OVERDUE): LinkState.ENDED,
    (LinkState.KILLED, Signal.GONE): LinkState.ENDED,
}
"""A signal that a state has no line for changes nothing. An agent is killed only after its dismissal, which follows from the journal.

One that is on its way out takes no orders and counts as gone, so nothing but its end after it was killed says that its name is free.
"""
REPORTS_IN_A_HEARTBEAT = 4
"""How often an agent reports at least, within the time in which a worker counts as frozen."""
OBEYS = (LinkState.ASKED, LinkState.ALIVE)


class AgentLink:
    """One agent of the run, or the place where one should be. A link is for one agent: where it is started anew, there is a new link."""

    def __init__(
        self,
        node: str,
        agent: Any | None,
        *,
        is_adopted: bool,
        epoch: int,
        transport: Transport,
        clock: AttendedClock,
        recovery: RecoveryConfig,
    ) -> None:
        """`agent`: None where it does not exist. `is_adopted`: an earlier controller started it."""
        self.node = node
        self.is_adopted = is_adopted
        self.agent = agent
        self.state = LinkState.LOST if agent is None else LinkState.ASKED
        self.report: AgentReport | None = None
        """The newest, but a node is empty only by a word that came after the order to empty it."""
        self._epoch = epoch
        self._transport = transport
        self._clock = clock
        self._recovery = recovery
        self._since_s = clock.now()
        """When the link came to its state."""
        self._version = 0
        self._newest: AgentReport | None = None
        self._summary: Summary | None = None
        self._received_s = self._ask_again_s = 0.0
        self._order: AgentOrder | None = None
        self._sent: AgentOrder | None = None
        """The order that is on its way."""
        self._obeyed: AgentOrder | None = None
        """The newest that the agent has confirmed."""
        self._kill_since_s: float | None = None
        """When the workers were first told to be gone; None while they are wanted, or once they are."""
        self._under_way: dict[Ref, str] = {}
        """Calls to the agent, and the method that each is of."""
        self._is_quiet = False
        """There is nothing to call for until something happens: most links, at most looks."""

    # --- what the run wants --------------------------------------------------------------------------------------------

    def order(self, order: AgentOrder | None) -> None:
        """What the agent is to see to from now on; None for nothing yet."""
        if order is self._order or order == self._order:
            return
        self._order, self._is_quiet = order, False
        self._kill_since_s = self._clock.now() if order is not None and order.mode is Mode.KILL else None
        self._show()

    def dismiss(self) -> None:
        """The agent is to end, with its workers."""
        self._signal(Signal.DISMISSED)

    @property
    def is_over(self) -> bool:
        """No worker of it is left that could be reached, and it takes no orders."""
        return self.state not in (*OBEYS, LinkState.LEAVING)

    # --- talking to it -------------------------------------------------------------------------------------------------

    def calls(self) -> Sequence[Ref]:
        """Begins the calls that are due."""
        if self._is_quiet or self.agent is None or self._clock.now() < self._ask_again_s:
            return ()
        self._is_quiet = True
        begun, talking = [], self._under_way.values()
        if self.state in OBEYS and self._order is not self._obeyed and self._order is not None and self._sent is None:
            self._sent = self._order
            begun.append(self._call("obey", self._order))
        if self.state in (*OBEYS, LinkState.KILLED) and "report" not in talking:
            report_every_s = min(REPORT_EVERY_S, self._recovery.heartbeat_timeout_s / REPORTS_IN_A_HEARTBEAT)
            begun.append(self._call("report", self._version, report_every_s))
        if self.state is LinkState.LEAVING and "leave" not in talking:
            begun.append(self._call("leave"))
        return begun

    def step_down(self) -> Ref | None:
        """Leaves the agent to another controller, with what it does now."""
        return self._call("step_down") if self.agent is not None and self.state in OBEYS else None

    def take(self, ref: Ref) -> bool:
        """Takes in an answer that has arrived; True when it is news. Raises Superseded when the agent obeys a newer controller."""
        self._is_quiet = False
        before = self.state, self._version, self._kill_since_s
        self._hear(ref, self._under_way.pop(ref))
        return (self.state, self._version, self._kill_since_s) != before

    def look_at_the_clock(self) -> None:
        """To be called after the answers that have arrived: what is there already is not late."""
        now_s = self._clock.now()
        waited_s = now_s - self._since_s
        if self.state is LinkState.ASKED and waited_s > self._recovery.agent_timeout_s:
            log.warning("agent on node %s said no word for %.0f s; are its GPUs taken, is braid installed there?", self.node, waited_s)
            self._signal(Signal.SILENT)
        if self.state in OBEYS and self._kill_since_s is not None and now_s - self._kill_since_s > self._patience_s(self._kill_since_s):
            log.warning("agent on node %s does not confirm that its workers are gone; going on, their writes are fenced", self.node)
            self._signal(Signal.UNCONFIRMED)
        if self.state in (LinkState.LEAVING, LinkState.KILLED) and waited_s > self._recovery.give_up_timeout_s:
            self._signal(Signal.OVERDUE)

    def _patience_s(self, kill_since_s: float) -> float:
        """An agent that still talks after the order gets the time that its workers may take to end, and says then which are stuck."""
        still_talks = self._received_s > kill_since_s
        return self._recovery.give_up_timeout_s + (self._recovery.kill_timeout_s if still_talks else 0.0)

    def seen(self) -> AgentSeen:
        return AgentSeen(
            node=self.node,
            report=self.report,
            summary=self._summary,
            age_s=self._age_s(),
            is_lost=self.state is LinkState.LOST,
            is_given_up=self.state is LinkState.GIVEN_UP,
        )

    def _age_s(self) -> float:
        """Of the report. An agent that is given up is not asked any more."""
        if self.report is None or self.state in (LinkState.LEAVING, LinkState.KILLED):
            return 0.0
        until_s = self._since_s if self.state is LinkState.GIVEN_UP else self._clock.now()
        return until_s - self._received_s

    # --- behind it -----------------------------------------------------------------------------------------------------

    def _hear(self, ref: Ref, method: str) -> None:
        try:
            answer = self._transport.result(ref)
        except StaleController as error:
            raise Superseded(f"agent on node {self.node}: {error}") from error
        except AgentUnreachable:
            self._sent = None if method == "obey" else self._sent
            self._ask_again_s = self._clock.now() + ASK_AGAIN_AFTER_S
            return
        except AgentGone as error:
            if self.state in OBEYS:
                log.warning("agent on node %s is gone: %s", self.node, error)
            self._signal(Signal.GONE)
            return
        if method == "leave":
            self._signal(Signal.LEFT)
        if method == "obey":
            self._obeyed, self._sent = self._sent, None
        if method in ("obey", "report"):
            self._accept(*answer)

    def _call(self, method: str, *args: Any) -> Ref:
        ref = self._transport.call(self.agent, method, self._epoch, *args)
        self._under_way[ref] = method
        return ref

    def _accept(self, version: int, report: AgentReport) -> None:
        """Answers may overtake each other: the newest is what counts, and it is as new as any order that was confirmed."""
        if version >= self._version:
            self._version, self._newest, self._summary = version, report, summarise(report.workers)
            self._received_s = self._clock.now()
        self._show()
        self._signal(Signal.SPOKE)

    def _show(self) -> None:
        newest, order = self._newest, self._order
        is_asked = self._kill_since_s is not None and order is not None
        if newest is not None and newest.is_empty and is_asked:
            if order is not None and _empties(self._obeyed, order.attempt):
                self._kill_since_s = None
            else:
                newest = replace(newest, is_empty=False)
        self.report = newest

    def _signal(self, signal: Signal) -> None:
        after = TRANSITIONS.get((self.state, signal), self.state)
        if after is self.state:
            return
        self.state, self._since_s, self._is_quiet = after, self._clock.now(), False
        if after is LinkState.KILLED:
            if self.agent is None:
                self.state = LinkState.ENDED
            else:
                self._transport.kill(self.agent)


def _empties(order: AgentOrder | None, attempt: int) -> bool:
    """Whether no worker of the attempt or an older one is left once the order is obeyed."""
    return order is not None and order.mode is Mode.KILL and order.attempt >= attempt

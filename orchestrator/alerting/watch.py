"""A thread beside the controller that looks at the run, and tells people. Whatever becomes of it, the run does not notice."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_pipeline.store.protocol import ObjectStore
from orchestrator.alerting.courier import Courier
from orchestrator.alerting.heartbeat import Heartbeat
from orchestrator.alerting.message import message_of
from orchestrator.alerting.outbox import Outbox, forgetful_outbox, open_outbox
from orchestrator.alerting.receivers import Receiver
from orchestrator.alerting.state import STALE_S, Sent, compare, due
from orchestrator.config import RunConfig
from orchestrator.control.controller import View
from orchestrator.control.state import Stage
from orchestrator.deadlines import ALERTS_LOOK_EVERY_S, ALERTS_SENT_WITHIN_S
from orchestrator.errors import Superseded, is_expected
from orchestrator.health.conditions import TOLD_BY_STATUS, Look, conditions
from orchestrator.health.recent import NOTHING_KNOWN, after_look
from orchestrator.health.totals import Totals
from orchestrator.identity import RunIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The run to look at."""

    identity: RunIdentity
    config: RunConfig
    store: ObjectStore
    """Of the run's alerts."""
    view: Callable[[], View]
    totals: Callable[[], Totals | None]


class AlertWatch:
    """`lines` may be asked for from any thread; the thread runs between `start` and `stop`."""

    def __init__(
        self,
        run: Watched,
        receivers: Sequence[Receiver],
        heartbeat: Heartbeat,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = ALERTS_LOOK_EVERY_S,
    ) -> None:
        self._run = run
        self._couriers = [Courier(receiver) for receiver in receivers]
        self._heartbeat = heartbeat
        self._wall_clock = wall_clock
        self._clock = clock
        self._every_s = every_s
        self._outbox: Outbox | None = None
        self._recent = NOTHING_KNOWN
        self._away_since_s: dict[str, float] = {}
        self._is_superseded = False
        self._is_in_trouble = False
        self._stopping = threading.Event()
        self._lines: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._watch, name="alerts", daemon=True)

    @property
    def lines(self) -> list[str]:
        """What `braid status` shows as alerts: what holds, worded as it was when it began, and receivers that take nothing."""
        return [*self._lines, *filter(None, [self._heartbeat.trouble])]

    def start(self) -> None:
        self._thread.start()
        self._heartbeat.start()

    def stop(self) -> None:
        """Looks once more and sends what is to be said of the run's end; gives it ALERTS_SENT_WITHIN_S. The rest stays in the outbox."""
        self._heartbeat.stop()
        self._stopping.set()
        self._thread.join(ALERTS_SENT_WITHIN_S + self._every_s)

    # --- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.look()
        give_up_at_s = self._clock() + ALERTS_SENT_WITHIN_S
        self.look()
        while self._clock() < give_up_at_s and self._has_unsent():
            for courier in self._couriers:
                courier.wait(min(self._every_s, 0.1))
            self.look()

    def look(self) -> None:
        """Raises nothing: a thread that ended would tell of nothing any more."""
        try:
            self._look()
            self._is_in_trouble = False
        except Superseded:
            self._is_superseded = True
        except Exception as error:  # whatever it is
            if not self._is_in_trouble:
                log.warning("alerts: this look failed, others follow: %s", error, exc_info=not is_expected(error))
            self._is_in_trouble = True

    def _look(self) -> None:
        view = self._run.view()
        if self._is_superseded or view.seen is None:
            return
        outbox, now_s = self._opened(view), self._wall_clock()
        self._recent = after_look(self._recent, self._run.config, view.state.attempt, view.seen)
        look = Look(
            run=self._run.identity.name,
            config=self._run.config,
            state=view.state,
            seen=view.seen,
            now_s=now_s,
            in_stage_s=view.in_stage_s,
            recent=self._recent,
            store_trouble=view.store_trouble,
            totals=self._run.totals(),
        )
        compared = compare(outbox.state, conditions(look), view.state, self._away_since_s, now_s)
        self._away_since_s = dict(compared.away_since_s)
        outbox.note(compared.events)
        has_ended = view.state.stage is Stage.ENDED  # there is no later message that could have the rest
        self._deliver(outbox, now_s, math.inf if has_ended else self._run.config.alerts.max_per_hour)
        held = [news.condition for news in outbox.state.holding.values() if news.condition.kind not in TOLD_BY_STATUS]
        self._lines = (*(one.line for one in held), *self._not_taken(outbox))

    def _opened(self, view: View) -> Outbox:
        if self._outbox is None and not self._couriers:
            self._outbox = forgetful_outbox()
        elif self._outbox is None:
            names = tuple(courier.name for courier in self._couriers)
            now_s = self._wall_clock()
            self._outbox = open_outbox(self._run.store, epoch=view.state.epoch, receivers=names, now_s=now_s, clock=self._clock)
        return self._outbox

    def _deliver(self, outbox: Outbox, now_s: float, limit: float) -> None:
        """Recorded first, sent then, and recorded that it was."""
        delivered = [done for courier in self._couriers if (done := courier.collect(self._clock())) is not None]
        outbox.note(Sent(at_s=now_s, receiver=one.receiver, upto=one.upto) for one in delivered)
        outbox.write()
        waiting = [(courier, due(outbox.state.told[courier.name], now_s, limit)) for courier in self._couriers]
        waiting = [(courier, news) for courier, news in waiting if news and courier.is_ready(self._clock())]
        if waiting and outbox.may_send():
            for courier, news in waiting:
                courier.send(message_of(self._run.identity, news, self._run.config.storage))

    def _has_unsent(self) -> bool:
        """Of those that take messages."""
        told = self._outbox.state.told if self._outbox is not None and not self._is_superseded else {}
        return any(told[courier.name].unsent and not courier.trouble for courier in self._couriers if courier.name in told)

    def _not_taken(self, outbox: Outbox) -> list[str]:
        waiting = {
            courier: sum(self._wall_clock() - one.at_s < STALE_S for one in outbox.state.told[courier.name].unsent)
            for courier in self._couriers
        }
        return [f"alerts: {one.name} takes no message: {one.trouble}; {waiting[one]} wait" for one in self._couriers if one.trouble]

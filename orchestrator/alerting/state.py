"""What is known of a run's alerts: which hold, and what each receiver was told of. A fold of events, which the outbox keeps. Pure."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.control.state import RunState, Stage
from orchestrator.health.conditions import Condition, Judgement, Kind, Severity, over_line
from orchestrator.records.journal import Lost

HOUR_S = 3600.0
DAY_S = 86_400.0
STALE_S = DAY_S
"""Older news is not sent any more."""
SETTLE_S = 60.0
"""How long a condition must be away before it is over; twice as long for each time that it came back within a day."""
LONGEST_SETTLE_S = HOUR_S
SETTLED_AT_ONCE = (Kind.INCIDENT, Kind.RECOVERING, Kind.CORDON, Kind.ENDED)
"""What can't flap: its key is new whenever it happens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A controller takes over: from here on every older one fails to write."""

    at_s: float
    epoch: int
    receivers: tuple[str, ...]
    """Their names. One that was not there before is told nothing of what came before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Raised:
    at_s: float
    condition: Condition


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """A condition holds no more."""

    at_s: float
    key: str
    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A receiver took all news up to this entry."""

    at_s: float
    receiver: str
    upto: int


AlertEvent = Begun | Raised | Over | Sent
ALERT_EVENT_KINDS: dict[str, Any] = {cls.__name__: cls for cls in (*typing.get_args(AlertEvent), Lost)}
"""By the name that the journal has for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """That a condition holds, or holds no more."""

    number: int
    """Of its entry."""
    at_s: float
    condition: Condition
    began_at_s: float
    over: str = ""
    """How it ended; empty while it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One receiver."""

    unsent: tuple[News, ...] = ()
    sent_at_s: tuple[float, ...] = ()
    """Of the messages within an hour of the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertState:
    number: int = 0
    """Of the last event."""
    epoch: int = 0
    holding: Mapping[str, News] = field(default_factory=dict)
    """By key."""
    told: Mapping[str, Told] = field(default_factory=dict)
    """By the receiver's name."""
    raised_at_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By key, how often it came within a day."""


def after(state: AlertState, event: AlertEvent | Lost) -> AlertState:
    """The state with one event more."""
    state = replace(state, number=state.number + 1)
    match event:
        case Begun():
            return replace(state, epoch=event.epoch, told={name: state.told.get(name, Told()) for name in event.receivers})
        case Raised():
            key, number = event.condition.key, state.number
            news = News(number=number, at_s=event.at_s, condition=event.condition, began_at_s=event.at_s)
            times = (*(at_s for at_s in state.raised_at_s.get(key, ()) if event.at_s - at_s < DAY_S), event.at_s)
            state = replace(state, holding={**state.holding, key: news}, raised_at_s={**state.raised_at_s, key: times})
            return _with_news(state, news)
        case Over() if (began := state.holding.get(event.key)) is not None:
            news = replace(began, number=state.number, at_s=event.at_s, over=event.line)
            state = replace(state, holding={key: one for key, one in state.holding.items() if key != event.key})
            return state if began.condition.severity is Severity.INFO else _with_news(state, news)
        case Sent() if event.receiver in state.told:
            return replace(state, told={**state.told, event.receiver: _sent(state.told[event.receiver], event)})
    return state


def _with_news(state: AlertState, news: News) -> AlertState:
    return replace(state, told={name: replace(told, unsent=(*told.unsent, news)) for name, told in state.told.items()})


def _sent(told: Told, event: Sent) -> Told:
    recently = (at_s for at_s in told.sent_at_s if event.at_s - at_s < HOUR_S)
    return Told(unsent=tuple(one for one in told.unsent if one.number > event.upto), sent_at_s=(*recently, event.at_s))


def due(told: Told, now_s: float, max_per_hour: float) -> tuple[News, ...]:
    """What the receiver is to be told now, in one message; () while it has nothing to hear, or has heard enough for this hour."""
    if sum(now_s - at_s < HOUR_S for at_s in told.sent_at_s) >= max_per_hour:
        return ()
    return tuple(one for one in told.unsent if now_s - one.at_s < STALE_S)


def settle_s(state: AlertState, condition: Condition) -> float:
    """How long it must be away before it is over."""
    if condition.kind in SETTLED_AT_ONCE:
        return 0.0
    times = len(state.raised_at_s.get(condition.key, ()))
    return min(LONGEST_SETTLE_S, SETTLE_S * 2.0 ** min(max(0, times - 1), 30))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What one look adds to what is known."""

    events: tuple[AlertEvent, ...]
    away_since_s: Mapping[str, float]
    """By key, conditions that hold no more and are not over yet."""


def compare(state: AlertState, judged: Judgement, run: RunState, away_since_s: Mapping[str, float], now_s: float) -> Compared:
    """The events that lead from what is known to what holds. A run that has ended settles nothing any more."""
    now = {one.key: one for one in judged.holding}
    away = {
        key: away_since_s.get(key, now_s)
        for key, news in state.holding.items()
        if key not in now and (news.condition.kind not in judged.undecided or run.stage is Stage.ENDED)
    }
    raised = tuple(Raised(at_s=now_s, condition=one) for key, one in now.items() if key not in state.holding)
    missed = [one for one in judged.recovered if one.key not in state.raised_at_s]
    raised += tuple(Raised(at_s=now_s, condition=one) for one in missed)
    over = (*_over(state, run, away, now_s), *(Over(at_s=now_s, key=one.key, line=over_line(one, run)) for one in missed))
    return Compared(events=(*raised, *over), away_since_s={key: at_s for key, at_s in away.items() if key not in {one.key for one in over}})


def _over(state: AlertState, run: RunState, away: Mapping[str, float], now_s: float) -> Iterator[Over]:
    for key, since_s in away.items():
        condition = state.holding[key].condition
        if run.stage is Stage.ENDED or now_s - since_s >= settle_s(state, condition):
            yield Over(at_s=now_s, key=key, line=over_line(condition, run))

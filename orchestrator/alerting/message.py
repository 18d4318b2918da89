"""What a receiver is told: one message of one or more news, as text, as JSON, as variables. Pure.

Everything that comes from a run, such as an error's words, is text in it and nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data_pipeline.config import StorageConfig
from orchestrator.alerting.state import News
from orchestrator.health.conditions import Severity
from orchestrator.identity import RunIdentity

VERSION = 1
MOST_LINES = 20
"""Of a message's text; the JSON has all."""
LONGEST_LINE = 600
ORDER = list(Severity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    run: RunIdentity
    news: tuple[News, ...]
    """At least one; the newest of each condition, the worst first."""
    where: str
    """Options that name the store, as they are typed behind a command."""

    @property
    def id(self) -> str:
        """The same when it is sent again: a receiver may drop what it has had."""
        return f"{self.run}-{max(one.number for one in self.news)}"


def message_of(run: RunIdentity, news: Sequence[News], storage: StorageConfig) -> Message:
    """What began and is over by now is told once, as over."""
    newest = {(one.condition.key, one.began_at_s): one for one in news}
    worst_first = sorted(newest.values(), key=lambda one: (bool(one.over), ORDER.index(one.condition.severity), one.number))
    return Message(run=run, news=tuple(worst_first), where=store_options(storage))


def store_options(storage: StorageConfig) -> str:
    """A message may be read anywhere, so they are always given."""
    return f" --storage {shlex.quote(storage.root)}" + (
        f" --endpoint-url {shlex.quote(storage.endpoint_url)}" if storage.endpoint_url else ""
    )


def subject_of(message: Message) -> str:
    """One line."""
    first, more = message.news[0], len(message.news) - 1
    return _one_line(f"[braid] {message.run.name}: {_line_of(first)}", 150) + (f" (and {more} more)" if more else "")


def text_of(message: Message) -> str:
    """For people: what it is, and what to type."""
    lines = []
    for one in message.news[:MOST_LINES]:
        lines.append(f"{message.run.name}: {_line_of(one)}")
        if not one.over:
            lines.append(f"    {one.condition.command}{message.where}")
    if (more := len(message.news) - MOST_LINES) > 0:
        lines.append(f"… and {more} more: `braid status {message.run.name}{message.where}`")
    return "\n".join(lines)


def json_of(message: Message) -> dict[str, Any]:
    """What webhooks get; docs/alerts.md says what is in it."""
    return {
        "version": VERSION,
        "id": message.id,
        "run": message.run.name,
        "run_id": message.run.id,
        "text": text_of(message),
        "alerts": [_alert(message, one) for one in message.news],
    }


def environment_of(message: Message) -> dict[str, str]:
    """What a command finds in its environment, of the first of the news; its text comes on stdin."""
    alert = json_of(message)["alerts"][0]
    fields = {"id": message.id, "run": message.run.name, "run_id": message.run.id, "num_alerts": len(message.news), **alert}
    return {f"BRAID_ALERT_{name.upper()}": "" if value is None else str(value).replace("\0", "") for name, value in fields.items()}


def _alert(message: Message, one: News) -> dict[str, Any]:
    condition = one.condition
    return {
        "key": f"{message.run}-{condition.key}",
        "kind": condition.kind.value,
        "state": "over" if one.over else "began",
        "severity": condition.severity.value,
        "line": _one_line(condition.line, LONGEST_LINE),
        "over": _one_line(one.over, LONGEST_LINE),
        "command": condition.command + message.where,
        "began_at": _stamp(one.began_at_s),
        "at": _stamp(one.at_s),
        "attempt": condition.attempt,
        "step": condition.step,
        "cause": condition.cause,
        "machine": condition.machine,
        "node": condition.node,
        "rank": condition.rank,
    }


def _line_of(one: News) -> str:
    line = _one_line(one.condition.line, LONGEST_LINE)
    return f"OVER: {_one_line(one.over, LONGEST_LINE)}. It was: {line}" if one.over else f"{one.condition.severity.value.upper()}: {line}"


def _one_line(text: str, longest: int) -> str:
    """Without what a terminal or a mail's head would obey."""
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def _stamp(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")

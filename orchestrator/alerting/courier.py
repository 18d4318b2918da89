"""One receiver, served by a thread for each try: whoever waits for an answer keeps nobody else waiting."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from orchestrator.alerting.message import Message
from orchestrator.alerting.receivers import NotTaken, Receiver
from orchestrator.deadlines import ALERT_RETRY_LIMIT_S, ALERT_RETRY_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The receiver took a message."""

    receiver: str
    upto: int
    """Number of the last of its news."""


class Courier:
    """At most one message is under way. For one thread at a time."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._thread: threading.Thread | None = None
        self._upto = 0
        self._not_taken = ""
        """Why the last try failed, set by its thread; empty where it did not."""
        self._failures = 0
        self._tries_again_at_s = 0.0

    @property
    def name(self) -> str:
        return self._receiver.name

    @property
    def trouble(self) -> str:
        """Why the receiver takes nothing; empty where it does, as far as is known."""
        return self._not_taken if self._failures else ""

    def is_ready(self, now_s: float) -> bool:
        return self._thread is None and now_s >= self._tries_again_at_s

    def send(self, message: Message) -> None:
        """Returns at once; `collect` tells what became of it."""
        self._upto = max(one.number for one in message.news)
        self._thread = threading.Thread(target=self._send, args=(message,), name=f"alert to {self.name}", daemon=True)
        self._thread.start()

    def collect(self, now_s: float) -> Delivered | None:
        """What was delivered since the last call; None for nothing."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        if self._not_taken:
            self._tries_again_at_s = now_s + min(ALERT_RETRY_LIMIT_S, ALERT_RETRY_S * 2.0 ** min(self._failures, 30))
            self._failures += 1
            return None
        self._failures = 0
        return Delivered(receiver=self.name, upto=self._upto)

    def wait(self, timeout_s: float) -> None:
        """For the message that is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _send(self, message: Message) -> None:
        try:
            self._receiver.send(message)
            self._not_taken = ""
        except NotTaken as error:
            self._not_taken = str(error)

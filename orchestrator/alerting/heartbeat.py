"""A dead-man's switch outside the cluster is asked for again and again while a controller looks after the run; it raises the alarm else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from orchestrator.alerting.receivers import NotTaken, ask, words_of
from orchestrator.alerting.secrets import SecretMissing, read_secret


class Heartbeat:
    """A GET every `every_s`, with nothing in it, while `sign` changes from one to the next: the controller has looked meanwhile."""

    def __init__(self, place: str, *, every_s: float, environ: Mapping[str, str], sign: Callable[[], object]) -> None:
        """`place` is where the address is kept; empty for no switch."""
        self._place = place
        self._every_s = every_s
        self._environ = environ
        self._sign = sign
        self._last: object = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self.trouble = ""
        """Why the switch was not reached, one line; empty where it was."""

    def start(self) -> None:
        if self._place:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def beat(self) -> None:
        """Asks once, where the controller has looked since the last time."""
        sign = self._sign()
        if sign is None or sign == self._last:
            return
        self._last = sign
        try:
            ask(read_secret(self._place, self._environ))
            self.trouble = ""
        except (NotTaken, SecretMissing) as error:
            self.trouble = f"alerts: heartbeat {self._place} was not taken: {error}"
        except Exception as error:  # noqa: BLE001 — whatever it is, its words may hold the address, and the next beat follows
            self.trouble = f"alerts: heartbeat {self._place} was not taken: {words_of(error)}"

    def _beat_on(self) -> None:
        self.beat()
        while not self._stopping.wait(self._every_s):
            self.beat()

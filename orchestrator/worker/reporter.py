"""A worker's voice: messages to its node agent, from a thread of its own, so that training never waits for a reader. No torch."""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import replace

from model.train.metrics import StepMetrics
from orchestrator.deadlines import BEAT_EVERY_S
from orchestrator.messages import Beat, DataUse, Message, Phase, encode

EXIT_ORPHANED = 3
NO_DATA = DataUse()


class Reporter:
    """Sends a Beat every half second and every change at once. Without a descriptor (torchrun) it says nothing.

    When the agent is gone the pipe is closed, and the process ends at once: an orphan must not train on.
    """

    def __init__(self, fd: int | None, *, beat_every_s: float = BEAT_EVERY_S) -> None:
        self._fd = fd
        self._beat_every_s = beat_every_s
        self._changed = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._beat = Beat(phase=Phase.STARTING, step=0)
        self._beat_wanted = True
        self._told_to_leave = False
        self._closed = False
        self._thread = threading.Thread(target=self._send_until_closed, name="reporter", daemon=True)

    def start(self) -> None:
        if self._fd is not None:
            self._thread.start()

    def enter(self, phase: Phase) -> None:
        self._set(replace(self._beat, phase=phase))

    def resumed_at(self, step: int) -> None:
        """Steps are counted from here."""
        self._set(replace(self._beat, step=step))

    def began(self, step: int) -> None:
        """The step's data is at hand. Told before anything waits for other ranks, so that the one which hangs before it shows."""
        self._set(replace(self._beat, begun=step))

    def evaluated(self) -> None:
        """One more batch of held-out text was looked at: a long look is no pause."""
        self._set(replace(self._beat, evaluated=self._beat.evaluated + 1))

    def finished(self, step: int, metrics: StepMetrics, *, tokens_per_s: float, data: DataUse = NO_DATA) -> None:
        """A step of training is done, its update applied or skipped; `data` has the rows of this step, and bytes so far.

        What was last measured on held-out text stays told.
        """
        if metrics.eval_loss is None and (before := self._beat.metrics) is not None:
            metrics = replace(metrics, eval_loss=before.eval_loss, eval_bits_per_byte=before.eval_bits_per_byte)
        num_skipped = self._beat.num_skipped + metrics.skipped
        known = self._beat.data
        data = replace(
            data,
            unread_rows=known.unread_rows + data.unread_rows,
            repetitive_rows=known.repetitive_rows + data.repetitive_rows,
        )
        beat = replace(self._beat, phase=Phase.TRAINING, step=step, metrics=metrics, tokens_per_s=tokens_per_s, num_skipped=num_skipped)
        self._set(replace(beat, data=data))

    def told_to_leave(self) -> None:
        """From the next beat on the reporter says so. Only sets a flag, so that a signal's handler may call it."""
        self._told_to_leave = True

    def send(self, message: Message) -> None:
        """Has a message sent after the beats so far; returns at once."""
        with self._changed:
            if self._beat_wanted:
                self._waiting.append(self._newest_beat())
                self._beat_wanted = False
            self._waiting.append(message)
            self._changed.notify()

    def close(self) -> None:
        """Returns when everything is said."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _newest_beat(self) -> Beat:
        return replace(self._beat, told_to_leave=self._told_to_leave)

    def _set(self, beat: Beat) -> None:
        """Only the newest beat counts: one that was not sent yet is replaced."""
        with self._changed:
            self._beat = beat
            self._beat_wanted = True
            self._changed.notify()

    def _send_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._beat_wanted or self._closed, timeout=self._beat_every_s)
                messages = [*self._waiting]
                is_last = self._closed
                if self._beat_wanted or not messages:
                    messages.append(self._newest_beat())
                self._waiting.clear()
                self._beat_wanted = False
            self._write(b"".join(map(encode, messages)))
            if is_last:
                return

    def _write(self, data: bytes) -> None:
        assert self._fd is not None
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            os._exit(EXIT_ORPHANED)


def build_reporter(fd: int | None) -> Reporter:
    """A running reporter whose first Beat is on its way."""
    reporter = Reporter(fd)
    reporter.start()
    return reporter

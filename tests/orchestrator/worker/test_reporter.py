"""A worker's voice: prompt, never in training's way, and a worker without a listener does not live on."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

from model.train.metrics import StepMetrics
from orchestrator.messages import Beat, Committed, DataUse, Ended, Message, Outcome, Phase, decode
from orchestrator.worker.reporter import EXIT_ORPHANED, Reporter

NEVER_S = 1e6
METRICS = StepMetrics(loss=2.5, grad_norm=1.0, tokens=64)


def open_reporter(*, beat_every_s: float = NEVER_S) -> tuple[Reporter, int]:
    reading, writing = os.pipe()
    reporter = Reporter(writing, beat_every_s=beat_every_s)
    reporter.start()
    return reporter, reading


def heard(reading: int, count: int) -> list[Message]:
    """The next `count` messages; blocks for them."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reading, 4096)
    return [decode(line) for line in data.splitlines()]


def test_the_first_sign_of_life_comes_by_itself():
    reporter, reading = open_reporter()

    assert heard(reading, 1) == [Beat(phase=Phase.STARTING, step=0)]
    reporter.close()


def test_it_beats_without_being_asked():
    reporter, reading = open_reporter(beat_every_s=0.001)

    assert heard(reading, 5)[-1] == Beat(phase=Phase.STARTING, step=0)
    reporter.close()


def test_a_step_is_told_at_once():
    reporter, reading = open_reporter()
    heard(reading, 1)

    reporter.finished(7, METRICS, tokens_per_s=100.0)

    assert heard(reading, 1) == [Beat(phase=Phase.TRAINING, step=7, metrics=METRICS, tokens_per_s=100.0)]
    reporter.close()


def test_skipped_updates_are_counted():
    reporter, reading = open_reporter()
    heard(reading, 1)

    for step, skipped in ((7, True), (8, False), (9, True)):
        reporter.finished(step, replace(METRICS, skipped=skipped), tokens_per_s=100.0)
    reporter.enter(Phase.SAVING)
    reporter.close()

    *_, last = heard(reading, 1)
    assert isinstance(last, Beat)
    assert (last.phase, last.num_skipped) == (Phase.SAVING, 2)


def test_rows_that_were_left_out_are_counted_and_bytes_are_told_as_they_stand():
    reporter, reading = open_reporter()
    heard(reading, 1)

    for step, unread in ((7, 2), (8, 0), (9, 1)):
        data = DataUse(fetched_bytes=step * 100, used_bytes=step * 90, unread_rows=unread, repetitive_rows=1)
        reporter.finished(step, METRICS, tokens_per_s=100.0, data=data)
    reporter.close()

    *_, last = heard(reading, 1)
    assert isinstance(last, Beat)
    assert last.data == DataUse(fetched_bytes=900, used_bytes=810, unread_rows=3, repetitive_rows=3)


def test_a_message_comes_after_the_step_that_it_is_about():
    reporter, reading = open_reporter()
    heard(reading, 1)

    reporter.finished(8, METRICS, tokens_per_s=100.0)
    reporter.send(Committed(step=8))
    reporter.send(Ended(outcome=Outcome.FINISHED, step=8))
    reporter.close()

    assert [type(one) for one in heard(reading, 3)] == [Beat, Committed, Ended]


def test_once_told_to_leave_every_beat_says_so():
    reporter, reading = open_reporter()
    heard(reading, 1)

    reporter.told_to_leave()
    reporter.finished(7, METRICS, tokens_per_s=100.0)
    reporter.send(Committed(step=7))
    reporter.enter(Phase.SAVING)
    reporter.close()

    beats = [one for one in heard(reading, 3) if isinstance(one, Beat)]
    assert [(beat.phase, beat.told_to_leave) for beat in beats] == [(Phase.TRAINING, True), (Phase.SAVING, True)]


def test_a_level_that_changes_meanwhile_does_not_undo_it():
    """The signal's handler runs between any two instructions of the main thread, also in the middle of setting another level."""
    reporter, reading = open_reporter()
    heard(reading, 1)
    old = reporter._beat

    reporter.told_to_leave()
    reporter._set(old)
    reporter.close()

    [beat] = heard(reading, 1)
    assert isinstance(beat, Beat)
    assert beat.told_to_leave


def test_training_does_not_wait_for_an_agent_that_does_not_read():
    reporter, reading = open_reporter()
    for step in range(20_000):  # far more than a pipe holds
        reporter.finished(step, METRICS, tokens_per_s=100.0)
        if step % 10 == 0:
            reporter.send(Committed(step=step))

    drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reading, 65536), b"")], daemon=True)
    drain.start()
    reporter.close()


def test_without_a_descriptor_it_says_nothing():
    reporter = Reporter(None)
    reporter.start()
    reporter.enter(Phase.LOADING)
    reporter.send(Committed(step=1))
    reporter.close()


def test_when_the_agent_is_gone_the_process_ends_at_once():
    code = (
        "import os, time\n"
        "from orchestrator.worker.reporter import build_reporter\n"
        "reading, writing = os.pipe()\n"
        "os.close(reading)\n"
        "build_reporter(writing)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)

    assert done.returncode == EXIT_ORPHANED

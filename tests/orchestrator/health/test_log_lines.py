"""What of a log says why its worker failed."""

from orchestrator.health.log_lines import NUM_ERROR_LINES, NUM_LINES, first_error, last_lines

TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 3, in run', "    boom()", "ValueError: no such thing"]


def log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_the_first_traceback_counts_since_others_are_its_consequence():
    second = [*TRACEBACK[:3], "RuntimeError: a worker is gone"]
    assert first_error(log("step 1", *TRACEBACK, "step 2", *second)) == TRACEBACK


def test_a_line_of_an_error_brings_its_traceback_along():
    line = "2026-11-29 19:03:11,001 ERROR rank 3: it broke"
    assert first_error(log("2026-11-29 19:03:10,001 INFO step 1", line, *TRACEBACK)) == [line, *TRACEBACK]
    assert first_error(log(line, "and more")) == [line]


def test_the_end_by_a_signal_is_an_error():
    assert first_error(log("step 1", "Fatal Python error: Segmentation fault")) == ["Fatal Python error: Segmentation fault"]


def test_a_log_without_an_error_has_none():
    assert first_error(log("step 1", "2026-11-29 19:03:11,001 INFO no ERROR here")) == []


def test_of_a_long_traceback_both_ends_are_kept():
    deep = [TRACEBACK[0], *(f"  line {number}" for number in range(500)), "RecursionError: too deep"]
    found = first_error(log(*deep))
    assert (found[0], found[-1], len(found)) == (deep[0], deep[-1], NUM_ERROR_LINES + 1)


def test_the_last_lines_are_what_was_said_without_stacks():
    stack = ["Current thread 0x00007f42 (most recent call first):", '  File "x.py", line 3 in run', "", "Extension modules: a (total: 1)"]
    said = [f"step {number}" for number in range(30)]
    assert last_lines(log(*said, *stack)) == said[-NUM_LINES:]

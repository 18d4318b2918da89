"""What each cause deserves."""

from orchestrator.control.causes import Cause
from orchestrator.control.verdicts import VERDICTS, backoff_s


def test_every_cause_has_a_verdict():
    assert set(VERDICTS) == set(Cause)


def test_the_backoff_doubles_up_to_its_limit_and_never_overflows():
    assert [backoff_s(n, 2.0, 9.0) for n in (1, 2, 3, 4, 5, 10_000)] == [0.0, 2.0, 4.0, 8.0, 9.0, 9.0]

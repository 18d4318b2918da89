"""A log as the page shows it."""

from launch.ui.logs import LINES_SHOWN, log_page

TRACEBACK = b"Traceback (most recent call last):\n  File x\n"
LOG = b"one\n" + TRACEBACK + b"ValueError: first\n\xff half\n" + TRACEBACK + b"KeyError: second\n"


def test_the_first_error_is_where_its_traceback_begins() -> None:
    assert log_page(LOG, "")["first_error"] == {"number": 2, "text": "ValueError: first"}
    assert log_page(b"all is well\n", "")["first_error"] is None


def test_a_search_knows_no_case_and_finds_nothing_by_pattern() -> None:
    assert [line["number"] for line in log_page(LOG, "ERROR:")["lines"]] == [4, 8]
    assert log_page(LOG, ".*")["num_found"] == 0


def test_of_many_lines_the_last_are_shown_with_their_numbers() -> None:
    found = log_page(b"x\n" * (LINES_SHOWN + 5), "")
    assert (found["num_lines"], len(found["lines"]), found["lines"][0]["number"]) == (LINES_SHOWN + 5, LINES_SHOWN, 6)
    assert log_page(b"", "") == {"num_lines": 0, "num_found": 0, "first_error": None, "lines": []}

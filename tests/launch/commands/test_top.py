"""`braid top`: what one looks at first."""

from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, stored_run


def test_without_a_terminal_the_first_screen_is_printed_once(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    done = braid("top", "first")
    assert done.status == 0
    assert done.out.startswith("first  finished")
    for label in ("Is it moving?", "Is it recovering?", "What would be lost?", "Loss", "Gradient norm", "Pace", "Which rank", "Spares"):
        assert label in done.out
    assert done.out.splitlines()[-1].startswith("  braid verify first --storage ")


def test_an_unknown_run_is_one_line(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    done = braid("top", "firts", "--once")
    assert (done.status, done.out) == (2, "")
    assert "did you mean first?" in done.err

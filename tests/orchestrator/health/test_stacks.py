"""Where workers stood: stacks out of their logs, equal ones told once, and who never came to the others."""

import faulthandler
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.health.stacks import Frame, StackGroup, grouped, main_stack, ranks_in_words, who_is_missing

C10D = "/env/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
STEP = Frame("/home/me/braid/model/train/step.py", 72, "_accumulate")
WAITS = (Frame(C10D, 4943, "reduce_scatter_single"), Frame("/env/site-packages/torch/autograd/graph.py", 9, "backward"), STEP)
READS = (Frame("/usr/lib/python3.11/ssl.py", 1106, "read"), Frame("/home/me/braid/data_pipeline/read/loader.py", 7, "batch"))


def text_of(*frames: Frame, header: str = "Current thread 0x00007f42 (most recent call first):") -> str:
    lines = (f'  File "{frame.file}", line {frame.line} in {frame.function}' for frame in frames)
    return "\n".join((header, *lines)) + "\n"


def test_of_all_threads_that_a_real_process_writes_the_main_one_counts(tmp_path: Path):
    script = tmp_path / "model" / "program.py"
    script.parent.mkdir()
    script.write_text(
        "import faulthandler, threading\n"
        "there, over = threading.Event(), threading.Event()\n"
        "def other():\n    there.set(); over.wait()\n"
        "def train():\n    there.wait(); print('a line of its own', flush=True); faulthandler.dump_traceback(all_threads=True)\n"
        "threading.Thread(target=other).start()\n"
        "train()\nover.set()\n"
    )
    assert faulthandler  # it is what the workers use
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True).stderr
    assert told.count("(most recent call first)") == 2
    assert [frame.function for frame in main_stack(told)] == ["train", "<module>"]
    assert main_stack(told)[0].place == "train (model/program.py:6)"


def test_what_is_written_last_counts_and_other_lines_between_do_not_matter():
    first = text_of(READS[0], Frame("/x/main.py", 1, "<module>"))
    second = text_of(*WAITS, Frame("/x/main.py", 1, "<module>"))
    others = text_of(READS[0], header="Thread 0x00007f41 (most recent call first):")
    assert main_stack(f"step 1\n{first}step 2\n{others}\n2026 INFO hello\n{second}{others}") == (*WAITS, Frame("/x/main.py", 1, "<module>"))
    assert main_stack("step 1\nstep 2\n") == ()


def test_a_stack_that_is_too_deep_to_be_written_whole_is_the_main_thread():
    assert main_stack(text_of(*WAITS) + "  ...\n") == WAITS


def test_equal_stacks_are_told_once_and_who_stands_alone_first():
    groups = grouped({rank: READS if rank == 15 else WAITS for rank in range(16)})
    assert [group.ranks for group in groups] == [(15,), tuple(range(15))]
    assert groups[1].where == "wait in reduce_scatter_single, called by _accumulate (model/train/step.py:72)"
    assert groups[0].where == "in read (/usr/lib/python3.11/ssl.py:1106), called by batch (data_pipeline/read/loader.py:7)"
    assert who_is_missing(groups) == (
        "waiting: ranks 0–14 in reduce_scatter_single; rank 15 never entered it: "
        "in read (/usr/lib/python3.11/ssl.py:1106), called by batch (data_pipeline/read/loader.py:7)"
    )


def test_ranks_that_wait_in_different_collectives_wait_for_each_other():
    gathers = (Frame(C10D, 4394, "all_gather_single"), STEP)
    assert who_is_missing(grouped({0: WAITS, 1: gathers})) == "waiting: rank 0 in reduce_scatter_single, rank 1 in all_gather_single"


@pytest.mark.parametrize("stacks", [{0: WAITS, 1: WAITS}, {0: READS, 1: READS}, {0: (), 1: WAITS}])
def test_where_the_stacks_do_not_tell_nothing_is_said(stacks: dict[int, tuple[Frame, ...]]):
    assert who_is_missing(grouped(stacks)) == ""


def test_a_rank_without_a_stack_says_so():
    assert StackGroup(ranks=(3,), frames=()).where == "no stack: the process wrote none before it ended"


@pytest.mark.parametrize(("ranks", "words"), [((3,), "rank 3"), ((0, 1, 2, 5), "ranks 0–2, 5"), ((7, 1), "ranks 1, 7")])
def test_ranks_in_words(ranks: tuple[int, ...], words: str):
    assert ranks_in_words(ranks) == words

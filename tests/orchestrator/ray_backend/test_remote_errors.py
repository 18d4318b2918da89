"""What an error from another process says, in one line."""

from __future__ import annotations

import pytest

from orchestrator.ray_backend.remote_errors import cause_of

TASK = "\x1b[36mray::braid-controller/a:ControllerActor.__init__()\x1b[39m (pid=26167, ip=127.0.0.1, repr=<a.long.Name object at 0x7f>)"
DIED = f"""The actor died because of an error raised in its creation task, {TASK}
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: The actor with name ControllerActor failed to import on the worker:

{TASK}
                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/site/orchestrator/config.py", line 10, in <module>
    from model.compute import ComputeConfig
"""


@pytest.mark.parametrize(
    "raised",
    [
        "ModuleNotFoundError: No module named 'model.compute'; 'model' is not a package",
        "data_pipeline.store.protocol.AccessDenied: s3://b: " + "a long reason, " * 40 + "in full",
        "KeyboardInterrupt",
    ],
)
def test_of_a_traceback_it_is_what_was_raised_in_the_end_and_all_of_it(raised: str) -> None:
    assert cause_of(RuntimeError(f"{DIED}{raised}\n")) == raised


def test_a_message_of_several_lines_is_whole() -> None:
    assert cause_of(RuntimeError(f"{DIED}OSError: the disk\nis full: /a\n")) == "OSError: the disk is full: /a"


def test_what_is_no_traceback_is_told_as_it_is_without_colours() -> None:
    assert cause_of(RuntimeError("\x1b[31mThe node\x1b[0m died.\n  It was \x1b[1;36mn1\x1b[0m.")) == "The node died. It was n1."
    assert cause_of(TimeoutError()) == "TimeoutError"

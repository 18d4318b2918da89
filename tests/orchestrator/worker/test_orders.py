"""A worker's ear: what its agent says, and that its agent is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from orchestrator.messages import Stop, encode
from orchestrator.worker.orders import start_listening
from orchestrator.worker.reporter import EXIT_ORPHANED


@pytest.mark.parametrize(
    "before", [b"", b"what?\n", b'{"kind": "Explode"}\n'], ids=["at once", "after noise", "after an order of another version"]
)
def test_a_stop_is_obeyed(before: bytes):
    reading, writing = os.pipe()  # whose end stays open: a listener that finds it ends its process
    stop = threading.Event()
    start_listening(os.fdopen(reading, "rb"), stop)

    os.write(writing, before + encode(Stop()))

    assert stop.wait(50)


def test_when_the_agent_is_gone_the_process_ends_at_once():
    code = (
        "import os, threading, time\n"
        "from orchestrator.worker.orders import start_listening\n"
        "reading, writing = os.pipe()\n"
        "start_listening(os.fdopen(reading, 'rb'), threading.Event())\n"
        "os.close(writing)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)

    assert done.returncode == EXIT_ORPHANED

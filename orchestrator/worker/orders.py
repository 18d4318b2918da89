"""A worker's ear: orders of its node agent, down a pipe. When the agent is gone the worker ends at once: an orphan must not train on.

No torch.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import BinaryIO, NoReturn

from orchestrator.codec import DecodeError
from orchestrator.messages import Assign, Stop, decode_order
from orchestrator.worker.reporter import EXIT_ORPHANED

log = logging.getLogger(__name__)


def has_order(orders: BinaryIO) -> bool:
    """Whether there is something to read, the end among it. To be asked before the first order is read."""
    return bool(select.select([orders], [], [], 0)[0])


def wait_for_assign(orders: BinaryIO) -> Assign:
    """The first order. Raises DecodeError where it is none that this version of braid knows."""
    line = orders.readline()
    if not line:
        _end_as_orphan()
    order = decode_order(line)
    if not isinstance(order, Assign):
        raise DecodeError(f"the first order to a worker must be Assign, not {type(order).__name__}")
    return order


def start_listening(orders: BinaryIO, stop: threading.Event) -> None:
    """Obeys all further orders from a thread of its own."""
    threading.Thread(target=_listen, args=(orders, stop), name="orders", daemon=True).start()


def _listen(orders: BinaryIO, stop: threading.Event) -> NoReturn:
    for line in orders:
        try:
            order = decode_order(line)
        except DecodeError as error:
            log.warning("an order is ignored: %s", error)
            continue
        if isinstance(order, Stop):
            log.info("told to checkpoint and stop")
            stop.set()
    _end_as_orphan()


def _end_as_orphan() -> NoReturn:
    os._exit(EXIT_ORPHANED)

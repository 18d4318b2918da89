"""A process that encodes batches for the one that started it: `python -P -m data_pipeline.dataset.worker_process FILE_DESCRIPTOR`.

It ends as soon as that one does, whatever it is at, since their connection does.
"""

import os
import queue
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from data_pipeline.dataset.batches import BatchEncoder, build_batch_encoder
from data_pipeline.sources.corpus import Batch


def main(connection: Connection) -> None:
    """Says that it is there, takes an Encoding, then numbered batches; gives each number with the encoded batch, or with the error."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    connection.send((None, None))
    encoding = inbox.get()
    encoder: BatchEncoder | None = None
    while True:
        number, batch = inbox.get()
        try:
            encoder = encoder or build_batch_encoder(encoding)
            answer: object = encoder.encode(batch)
        except Exception as error:  # noqa: BLE001 — the one who asked raises it
            error.add_note(traceback.format_exc())
            answer = error
        connection.send((number, answer))


def _receive(connection: Connection, inbox: queue.SimpleQueue[tuple[int, Batch]]) -> None:
    """Takes what comes while something else is encoded, so that nobody waits for anybody."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))

"""What we add to moto: conditional writes one after the other."""

import io
import threading
from typing import Any

from launch.servers.moto import atomic_creates


def request(body: Any, *, conditional: bool = True) -> dict[str, Any]:
    environ = {"wsgi.input": body, "CONTENT_LENGTH": "4"}
    return environ | {"HTTP_IF_NONE_MATCH": "*"} if conditional else environ


def test_conditional_writes_never_overlap() -> None:
    inside = threading.Semaphore(1)
    overlaps: list[bool] = []
    others = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        alone = inside.acquire(blocking=False)
        overlaps.append(not alone)
        others.wait(0.02)  # gives the others every chance to come in
        if alone:
            inside.release()
        return [environ["wsgi.input"].read()]

    served = atomic_creates(app)
    threads = [threading.Thread(target=lambda: served(request(io.BytesIO(b"body")), None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 8


def test_a_client_that_freezes_within_its_body_holds_up_nobody() -> None:
    thawed = threading.Event()
    entered = threading.Event()

    class FrozenBody:
        def read(self, size: int) -> bytes:
            entered.set()
            assert thawed.wait(30)
            return b"late"

    served = atomic_creates(lambda environ, start_response: [environ["wsgi.input"].read()])
    answers: list[Any] = []
    frozen = threading.Thread(target=lambda: answers.append(served(request(FrozenBody()), None)))
    frozen.start()
    assert entered.wait(30)
    assert served(request(io.BytesIO(b"fast")), None) == [b"fast"]
    assert served(request(io.BytesIO(b"free"), conditional=False), None) == [b"free"]
    thawed.set()
    frozen.join()
    assert answers == [[b"late"]]

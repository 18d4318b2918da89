"""Large ranges of objects by signed URLs, each read by a socket that its own thread waits for.

The client's event loop takes an answer apart in small pieces under Python's lock, which costs three times the processor's time. Whatever
does not go well here is left to the client, which knows what an error means and tries again.
"""

import os
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from fsspec.asyn import sync
from urllib3.exceptions import HTTPError

from data_pipeline.store.s3_answers import is_range
from data_pipeline.store.s3_errors import RAISED_BY_S3

SMALLEST_BYTES = 2**18
"""Of a range that is worth it."""
SIGNED_FOR_S = 900
USED_FOR_S = 300.0
"""How long a URL is used: less than it is valid, and than credentials that are about to be renewed."""
MOST_URLS = 4096
RESTS_FOR_S = 60.0
"""After something went wrong, how long all is left to the client: a busy server is not asked twice for everything."""
PIECE_BYTES = 2**18


@dataclass(kw_only=True, slots=True, eq=False)
class RangeReader:
    """Safe to use from any thread."""

    sign: Callable[[str], str]
    """The URL of a key of the bucket, valid for SIGNED_FOR_S."""
    session: URLLib3Session
    _urls: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By key, with the time until which it is used."""
    _rests_until_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, key: str, start: int, length: int, *, within_s: float) -> bytes | None:
        """Bytes [start, start + length) of an object, fewer where it ends before; None where they did not come as they should."""
        if length < SMALLEST_BYTES or time.monotonic() < self._rests_until_s:
            return None
        try:
            data = self._got(self._url(key), start, length, time.monotonic() + within_s)
        except (*RAISED_BY_S3, HTTPError, ValueError):
            data = None
        if data is None:
            self._urls.pop(key, None)
            self._rests_until_s = time.monotonic() + RESTS_FOR_S
        return data

    def _url(self, key: str) -> str:
        with self._lock:
            url, until_s = self._urls.get(key, ("", 0.0))
            if time.monotonic() < until_s:
                return url
            if len(self._urls) >= MOST_URLS:
                self._urls.clear()
            url = self.sign(key)
            self._urls[key] = url, time.monotonic() + USED_FOR_S
            return url

    def _got(self, url: str, start: int, length: int, ends_at_s: float) -> bytes | None:
        wanted = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        answer = self.session.send(AWSRequest(method="GET", url=url, headers=wanted, stream_output=True).prepare())
        try:
            size = int(answer.headers.get("Content-Length", -1))
            about = {"ContentRange": answer.headers.get("Content-Range", ""), "ContentLength": size}
            if answer.status_code != 206 or not is_range(about, start, length):
                answer.raw.close()  # with what was not read of it
                return None
            return _body(answer.raw, size, ends_at_s)
        finally:
            answer.raw.release_conn()


def _body(raw: Any, size: int, ends_at_s: float) -> bytes | None:
    """So many bytes of an answer; None where they come too slowly, or are fewer. What is left of it is not read by another request."""
    pieces: list[bytes] = []
    while size > 0 and time.monotonic() < ends_at_s and (piece := raw.read1(min(PIECE_BYTES, size))):
        pieces.append(piece)
        size -= len(piece)
    if size > 0 or raw.read():
        raw.close()
        return None
    return b"".join(pieces)


def build_range_reader(
    client: Any, loop: AbstractEventLoop, bucket: str, *, ca_bundle: str | None, timeouts_s: tuple[float, float], num_connections: int
) -> RangeReader:
    """Of what is in a bucket, as the client reaches it, whose event loop this is; timeouts are of connecting and of each read."""

    def sign(key: str) -> str:
        wanted = {"Bucket": bucket, "Key": key}
        url: str = sync(loop, client.generate_presigned_url, "get_object", Params=wanted, ExpiresIn=SIGNED_FOR_S)
        return url

    session = URLLib3Session(
        verify=ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True,
        proxies=get_environ_proxies(client.meta.endpoint_url),
        timeout=timeouts_s,
        max_pool_connections=num_connections,
    )
    return RangeReader(sign=sign, session=session)

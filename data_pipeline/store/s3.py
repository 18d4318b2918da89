"""An object store on S3, or on anything that speaks it. The only importer of s3fs.

s3fs gives the client, with its connections and credentials, and an event loop that any thread may use. The calls are plain S3 operations
on that client: s3fs's own layer hides which condition failed, retries by itself, and makes a new client for each of several first calls
that come at once. botocore's retries are off too: `retry.py` does them.
"""

import asyncio
import dataclasses
import itertools
import math
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import NoCredentialsError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectInfo, StoreError, check_key, check_prefix, check_range
from data_pipeline.store.retry import TransientError, backoff_delays, with_retries
from data_pipeline.store.s3_answers import is_answer, is_range
from data_pipeline.store.s3_errors import RAISED_BY_S3, BucketExists, NoSuchRule, RangePastEnd, to_store_error
from data_pipeline.store.s3_ranges import RangeReader, build_range_reader

Result = TypeVar("Result")
Parameters = dict[str, Any]
"""Arguments of an S3 operation, by Amazon's names."""
Answer = dict[str, Any]
"""What an S3 operation returns, by Amazon's names."""

PART_SIZE_BYTES = 32 * 2**20
MULTIPART_FROM_BYTES = 2 * PART_SIZE_BYTES
NUM_PARALLEL_PARTS = 4
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
FIRST_PATIENCE_S = 5.0
"""How long the first try of a read may take, beside the time of its bytes; each further one has twice as long, for a server that is slow.

Source: "Timeouts and Retries for Latency-Sensitive Applications", Amazon S3 User Guide: a stalled request is best asked again soon.
"""
SLOWEST_BYTES_PER_S = 2**18
"""An answer that comes more slowly, for longer than the deadline, counts as none: each of its bytes may come before a read times out."""
NUM_CONNECTIONS = 32
_WRITER = "braid-writer"


@dataclass(frozen=True, slots=True)
class S3Store:
    """Objects of one bucket under one prefix."""

    filesystem: S3FileSystem
    """Owns the event loop and the client, which it closes when it is garbage-collected."""
    client: Any
    """The aiobotocore client; its coroutines must run on the filesystem's event loop."""
    bucket: str
    prefix: str
    """What every key in the bucket begins with: empty, or ends with '/'."""
    endpoint: str
    """The server's URL without credentials, for messages."""
    ranges: RangeReader
    """What reads large ranges, as long as nothing goes wrong."""
    deadline_s: float
    """How long one operation is tried again."""

    def __repr__(self) -> str:
        return f"S3Store(s3://{self.bucket}/{self.prefix})"

    def put(self, key: str, data: bytes | memoryview) -> None:
        if len(data) >= MULTIPART_FROM_BYTES:
            self._put_in_parts(key, data)
        else:
            self._call("put_object", key, {"Body": bytes(data)})

    def create(self, key: str, data: bytes) -> None:
        """Writes the object if there is none; raises KeyExists where another writer was first.

        The object carries a nonce. Where an answer got lost and the write was repeated, the server refuses the second because of our own
        first: the nonce tells, and the write counts. (aiohttp too repeats a PUT, when a kept connection turns out to be closed.)
        """
        writer = uuid.uuid4().hex
        try:
            self._call("put_object", key, {"Body": data, "IfNoneMatch": "*", "Metadata": {_WRITER: writer}})
        except KeyExists:
            if self._writer_of(key) != writer:
                raise

    def get(self, key: str) -> bytes:
        return self._read(key, {}, lambda answer: True)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        if length == 0:
            return b""
        began_s = time.monotonic()
        data = self.ranges.read(self.prefix + check_key(key), start, length, within_s=self.deadline_s / 2 + length / SLOWEST_BYTES_PER_S)
        if data is not None:
            return data
        rest = dataclasses.replace(self, deadline_s=max(0.0, self.deadline_s - (time.monotonic() - began_s)))
        try:
            wanted = {"Range": f"bytes={start}-{start + length - 1}"}
            return rest._read(key, wanted, lambda answer: is_range(answer, start, length))
        except RangePastEnd:
            return b""

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        where = {"Bucket": self.bucket, "Prefix": self.prefix + check_prefix(prefix)}
        if after:
            where["StartAfter"] = self.prefix + check_prefix(after)
        found: list[ObjectInfo] = []
        while True:
            page = self._request("list_objects_v2", self.url(prefix), where)
            found.extend(map(self._to_info, page.get("Contents", [])))
            if not page["IsTruncated"]:
                return sorted(found, key=lambda info: info.key)
            where["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        self._call("delete_object", key, {})

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        where = {"Bucket": self.bucket, "Prefix": self.prefix + check_prefix(prefix)}
        aborted = 0
        while True:
            page = self._request("list_multipart_uploads", self.url(prefix), where)
            for upload in page.get("Uploads", []):
                key = upload["Key"].removeprefix(self.prefix)
                if is_abandoned(key) and upload["Initiated"].timestamp() < begun_before_s:
                    with suppress(KeyMissing):  # it has just come to its end
                        self._call("abort_multipart_upload", key, {"UploadId": upload["UploadId"]})
                        aborted += 1
            if not page["IsTruncated"]:
                return aborted
            where |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def _to_info(self, entry: Answer) -> ObjectInfo:
        return ObjectInfo(
            key=entry["Key"].removeprefix(self.prefix), size_bytes=entry["Size"], modified_at_s=entry["LastModified"].timestamp()
        )

    def _writer_of(self, key: str) -> str:
        try:
            answer = self._call("head_object", key, {})
        except KeyMissing:
            return ""
        return str(answer.get("Metadata", {}).get(_WRITER, ""))

    def _put_in_parts(self, key: str, data: bytes | memoryview) -> None:
        writer = uuid.uuid4().hex
        upload = {"UploadId": self._call("create_multipart_upload", key, {"Metadata": {_WRITER: writer}})["UploadId"]}

        def put_part(number: int) -> Answer:
            start = (number - 1) * PART_SIZE_BYTES
            part = {"PartNumber": number, "Body": bytes(data[start : start + PART_SIZE_BYTES])}
            return {"PartNumber": number, "ETag": self._call("upload_part", key, upload | part)["ETag"]}

        try:
            with ThreadPoolExecutor(NUM_PARALLEL_PARTS) as pool:
                parts = list(pool.map(put_part, range(1, 1 + -(-len(data) // PART_SIZE_BYTES))))
            self._complete(key, upload | {"MultipartUpload": {"Parts": parts}}, writer)
        except StoreError:
            with suppress(StoreError):  # the first failure is the one to tell
                self._call("abort_multipart_upload", key, upload)
            raise

    def _complete(self, key: str, upload: Parameters, writer: str) -> None:
        try:
            self._call("complete_multipart_upload", key, upload)
        except KeyMissing:  # the upload is gone: perhaps completed, and the answer got lost
            if self._writer_of(key) != writer:
                raise

    def _read(self, key: str, extra: Parameters, is_wanted: Callable[[Answer], bool]) -> bytes:
        url = self.url(key)
        parameters = {"Bucket": self.bucket, "Key": self.prefix + check_key(key)} | extra

        async def read(limit: asyncio.Timeout) -> bytes:
            answer = await self.client.get_object(**parameters)
            async with answer["Body"] as body:
                self._check("get_object", answer, url)
                if not is_wanted(answer):
                    raise TransientError(f"{url}: {self.endpoint} answered other bytes than those that were asked for")
                _extend(limit, answer["ContentLength"])
                return await body.read()

        return self._retry(read, url, patience_s=(FIRST_PATIENCE_S * 2**tries for tries in itertools.count()))

    def _call(self, operation: str, key: str, extra: Parameters) -> Answer:
        return self._request(operation, self.url(key), {"Bucket": self.bucket, "Key": self.prefix + check_key(key)} | extra)

    def _request(self, operation: str, url: str, parameters: Parameters) -> Answer:
        async def request(limit: asyncio.Timeout) -> Answer:
            _extend(limit, len(parameters.get("Body", b"")))
            answer = await getattr(self.client, operation)(**parameters)
            self._check(operation, answer, url)
            return answer

        return self._retry(request, url, patience_s=itertools.repeat(math.inf))

    def _check(self, operation: str, answer: Answer, url: str) -> None:
        if not is_answer(operation, answer):
            raise TransientError(f"{url}: {self.endpoint} answered what no S3 server does")

    def _retry(self, call: Callable[[asyncio.Timeout], Coroutine[Any, Any, Result]], url: str, *, patience_s: Iterator[float]) -> Result:
        """What `call` returns, which is given the limit of its time: the next of `patience_s`, and the deadline for all tries together."""
        ends_at_s = time.monotonic() + self.deadline_s

        async def attempt(within_s: float) -> Result:
            async with asyncio.timeout(within_s) as limit:
                return await call(limit)

        answered: list[Exception] = []

        def tried() -> Result:
            left_s, patient_s = max(ends_at_s - time.monotonic(), 0.0), next(patience_s)
            try:
                return sync(self.filesystem.loop, attempt, min(left_s, patient_s))
            except TimeoutError as error:
                if answered and left_s <= patient_s:
                    raise answered[-1] from error  # the deadline cut the last try short: what came before says more
                raise
            except RAISED_BY_S3 as error:
                answered.append(error)
                raise

        return _retried(tried, url=url, endpoint=self.endpoint, deadline_s=self.deadline_s)


def _extend(limit: asyncio.Timeout, num_bytes: int) -> None:
    """Gives so many bytes the time that they may take."""
    limit.reschedule((limit.when() or 0.0) + num_bytes / SLOWEST_BYTES_PER_S)


def open_s3(storage: StorageConfig) -> S3Store:
    """The store at an `s3://` root. Credentials and region are the environment's or the AWS chain's.

    Checksums beyond what S3 requires are off: older S3-compatible servers refuse them, and what matters here carries a SHA-256 of its own.
    Bodies are signed only where TLS does not guard them: signing digests each once more, in the thread that all requests share.
    """
    bucket, prefix = storage.bucket_and_prefix()
    timeouts_s = min(CONNECT_TIMEOUT_S, storage.deadline_s / 2), min(READ_TIMEOUT_S, storage.deadline_s / 2)  # for another try
    filesystem = _build_filesystem(storage, *timeouts_s)

    def connect() -> None:
        filesystem.connect(refresh=True)  # a client that was made without credentials never gets any
        if sync(filesystem.loop, filesystem.session.get_credentials) is None:
            raise NoCredentialsError

    _retried(connect, url=storage.root, endpoint=storage.endpoint_url or "AWS", deadline_s=storage.deadline_s)
    client = filesystem.s3
    endpoint = urlsplit(client.meta.endpoint_url)

    ranges = build_range_reader(
        client,
        filesystem.loop,
        bucket,
        ca_bundle=filesystem.session.get_config_variable("ca_bundle"),
        timeouts_s=(timeouts_s[0], min(FIRST_PATIENCE_S, timeouts_s[1])),
        num_connections=NUM_CONNECTIONS,
    )
    return S3Store(
        filesystem=filesystem,
        client=client,
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        ranges=ranges,
        endpoint=f"{endpoint.scheme}://{endpoint.hostname}" + (f":{endpoint.port}" if endpoint.port else ""),
        deadline_s=storage.deadline_s,
    )


def _build_filesystem(storage: StorageConfig, connect_s: float, read_s: float) -> S3FileSystem:
    return S3FileSystem(
        endpoint_url=storage.endpoint_url or None,
        default_cache_type="none",
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": connect_s,
            "read_timeout": read_s,
            "signature_version": "s3v4",
            "max_pool_connections": NUM_CONNECTIONS,
            "user_agent": "braid",  # the long one is put together anew for each request
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"payload_signing_enabled": storage.endpoint_url.startswith("http://")},
        },
    )


def _retried(call: Callable[[], Result], *, url: str, endpoint: str, deadline_s: float) -> Result:
    def attempt() -> Result:
        try:
            return call()
        except RAISED_BY_S3 as error:
            raise to_store_error(error, url=url, endpoint=endpoint) from error

    delays_s = backoff_delays(chance=random.SystemRandom().random)
    return with_retries(attempt, delays_s=delays_s, deadline_s=deadline_s, clock=time.monotonic, sleep=time.sleep)


def aborts_uploads_itself(storage: StorageConfig) -> bool:
    """Whether a rule of the bucket aborts incomplete uploads below the root. Raises StoreError where the server doesn't say."""
    store = open_s3(storage)
    try:
        rules = store._request("get_bucket_lifecycle_configuration", f"s3://{store.bucket}", {"Bucket": store.bucket}).get("Rules", [])
    except NoSuchRule:
        return False
    ours = [rule for rule in rules if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule]
    return any(store.prefix.startswith(rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))) for rule in ours)


def create_bucket(storage: StorageConfig) -> None:
    """Makes the bucket of an `s3://` root in the server's default region, unless it is there already and ours. For demos and tests."""
    store = open_s3(storage)
    try:
        store._request("create_bucket", f"s3://{store.bucket}", {"Bucket": store.bucket})
    except BucketExists:
        return

"""What a person chooses about storage and data. Pure: importing it costs neither torch nor s3fs."""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

MAX_NAME_LENGTH = 100
SHUFFLE_WINDOW = 32
CACHE_LIMIT = 100 * 10**9
SMALLEST_CACHE = 10**8
MOST_BLOCKS = 2**16
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_S3_SCHEME = "s3://"


def check_name(name: str, *, key: str) -> None:
    """Accept `name` as one part of an object key, so that it can never leave its prefix.

    Raises ValueError, which begins with the config key `key`.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{key}={name!r}: use up to {MAX_NAME_LENGTH} letters, digits, '.', '_' and '-', with no '.' or '-' first")


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Where datasets and runs live. Credentials never belong here: they come from the environment or the AWS chain."""

    root: str
    """`s3://bucket/prefix`, or a directory that every node sees."""
    endpoint_url: str = ""
    """An S3-compatible server. Empty: AWS, or what AWS_ENDPOINT_URL says."""
    deadline_s: float = 60.0
    """How long one operation is tried again before the store counts as unavailable, in seconds."""

    def __post_init__(self) -> None:
        if "://" in self.root or self.root.startswith("s3:"):
            self._check_s3_root()
        elif not self.root or any(not character.isprintable() for character in self.root):
            raise ValueError(f"storage.root={self.root!r}: set it to s3://bucket/prefix or to a directory")
        self._check_endpoint()
        if not self.deadline_s > 0:
            raise ValueError(f"storage.deadline_s={self.deadline_s}: must be above 0; 60 suits most networks")

    @property
    def is_s3(self) -> bool:
        """Whether the root is on S3; else it is a directory."""
        return self.root.startswith(_S3_SCHEME)

    def bucket_and_prefix(self) -> tuple[str, str]:
        """The bucket and the prefix of an S3 root; the prefix has no slash at its end and may be empty."""
        bucket, _, prefix = self.root.removeprefix(_S3_SCHEME).partition("/")
        return bucket, prefix.rstrip("/")

    def _check_s3_root(self) -> None:
        bucket, prefix = self.bucket_and_prefix()
        parts = prefix.split("/") if prefix else []
        is_printable = all(character.isprintable() for character in prefix)
        if self.is_s3 and bucket and not 3 <= len(bucket) <= 63:
            raise ValueError(f"storage.root={self.root!r}: a bucket's name has 3 to 63 characters; use s3://bucket/prefix")
        if not self.is_s3 or not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") for part in parts) or not is_printable:
            raise ValueError(f"storage.root={self.root!r}: not an S3 location; use s3://bucket/prefix, or a directory without '://'")

    def _check_endpoint(self) -> None:
        if not self.endpoint_url:
            return
        address = urlsplit(self.endpoint_url)
        if address.username is not None or address.password is not None:
            raise ValueError("storage.endpoint_url: holds credentials; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(
                f"storage.endpoint_url={self.endpoint_url!r}: use http://HOST:PORT or https://HOST:PORT, or leave it empty for AWS"
            )
        if not self.is_s3:
            raise ValueError(f"storage.endpoint_url={self.endpoint_url!r}: only goes with an s3:// storage.root; leave it empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which tokens are trained on, and in which order."""

    dataset: str = "python-stdlib"
    """Name of a dataset under the storage root, as built by `braid data build`."""
    seq_len: int
    """T: input tokens of one row of a batch."""
    seed: int = 34521
    """Chooses the order of samples. The same seed gives the same order for every world size."""
    shuffle: Literal["full", "blocks"] = field(default="full", metadata={"omit_default": True})
    """`full`: any sample may follow any. `blocks`: each row reads whole blocks of about a million tokens, some of them at a time, which is
    what makes a corpus that no node can keep readable from S3."""
    shuffle_window: int = field(default=SHUFFLE_WINDOW, metadata={"omit_default": True})
    """Blocks among which the samples of a row are shuffled, for `shuffle=blocks`; a node keeps so many for each of its rows."""
    document_masking: bool = False
    """Whether the documents of a row are kept apart: none sees another, in attention, recurrent state or positions,
    and the last token of one is not asked for the first of the next."""
    repetition_filter: bool = field(default=False, metadata={"omit_default": True})
    """Whether nothing is learnt from rows that hold 32 or more repeats of 1 to 13 tokens (see `read/repetition.py`); they stay in their
    place. OLMo-core calls it the instance filter."""
    on_corrupt: Literal["fail", "skip"] = field(default="fail", metadata={"omit_default": True})
    """What a row means that can't be read, since its shard is missing or not what the dataset has, twice. `fail` ends the run; `skip`
    puts eos in its place, from which nothing is learnt, and records it."""
    cache_limit: int = field(default=CACHE_LIMIT, metadata={"omit_default": True})
    """What a node keeps of datasets on its own disk where storage.root is on S3, in bytes; the least recently used goes first."""

    def __post_init__(self) -> None:
        check_name(self.dataset, key="data.dataset")
        if self.seq_len < 1:
            raise ValueError(f"data.seq_len={self.seq_len}: must be at least 1; 1024 is a common start")
        if not 1 <= self.shuffle_window <= MOST_BLOCKS:
            raise ValueError(f"data.shuffle_window={self.shuffle_window}: use 1 to {MOST_BLOCKS}")
        if self.on_corrupt not in ("fail", "skip"):
            raise ValueError(f"data.on_corrupt={self.on_corrupt}: use fail or skip")
        if self.cache_limit < SMALLEST_CACHE:
            raise ValueError(f"data.cache_limit={self.cache_limit}: holds hardly a block for each row; use {SMALLEST_CACHE} or more")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"data.seed={self.seed}: must be between 0 and 2**63 - 1")

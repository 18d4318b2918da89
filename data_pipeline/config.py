"""What a person chooses about storage and data. Pure: importing it costs neither torch nor s3fs."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

MAX_NAME_LENGTH = 100
SHUFFLE_WINDOW = 32
DATASET = "python-stdlib"
LARGEST_RATIO = 1e9
MOST_EPOCHS = 10**6
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
class SourceConfig:
    """One dataset of a mixture."""

    dataset: str
    """Name of a dataset under the storage root."""
    ratio: float = 1.0
    """Its part of the rows, in any unit: 8 beside 2 is as 0.8 beside 0.2. Within a row in every window of 64 largest
    batches; what is rounded off in one is made up for in others, to a row in four million."""
    max_epochs: int | None = None
    """How many epochs are read of it at most; the others take its part then. A phase of another seq_len breaks an epoch off: with
    `shuffle=full` and of packed rows the next one begins, with `shuffle=blocks` the next window of blocks, which is `shuffle_window` blocks
    of about a million tokens for each row of the largest batch. Where no such window is left, the next epoch begins too. What is broken
    off is left unread and counts, so that with `max_epochs: 1` it may be all that is left; `braid data plan` says how much."""

    def __post_init__(self) -> None:
        check_name(self.dataset, key="data.sources.dataset")
        _check_ratio(f"data.sources: {self.dataset}: ratio", self.ratio)
        if self.max_epochs is not None and not 1 <= self.max_epochs <= MOST_EPOCHS:
            raise ValueError(f"data.sources: {self.dataset}: max_epochs={self.max_epochs}: use 1 to {MOST_EPOCHS}, or leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig:
    """Consecutive steps of a run that differ from others in mixture or shape. What it leaves out is that of `data` and `train`."""

    steps: int | None = None
    """How long it lasts; or `tokens`, up to a whole step. The last phase has neither, and lasts to train.num_steps."""
    tokens: int | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    """By dataset, of those in `data.sources`; one that is left out is not read."""
    seq_len: int | None = None
    batch_rows: int | None = None
    micro_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "seq_len", "batch_rows", "micro_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.phases: {name}={value}: use 1 or more, or leave it out")
        for dataset, ratio in self.ratios.items():
            _check_ratio(f"data.phases: ratios.{dataset}", ratio)
        if self.ratios and not any(self.ratios.values()):
            raise ValueError("data.phases: ratios are all 0; give one dataset more")


def _check_ratio(key: str, ratio: float) -> None:
    if not (0 <= ratio <= LARGEST_RATIO and math.isfinite(ratio)):
        raise ValueError(f"{key}={ratio}: use 0 to {LARGEST_RATIO:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which tokens are trained on, and in which order."""

    dataset: str = DATASET
    """Name of a dataset under the storage root, as built by `braid data build`."""
    sources: tuple[SourceConfig, ...] = field(default=(), metadata={"omit_default": True})
    """A mixture of datasets, instead of `dataset`."""
    phases: tuple[PhaseConfig, ...] = field(default=(), metadata={"omit_default": True})
    """What changes on the way: mixture, length of rows, size of batches. None: all steps are the same."""
    seq_len: int
    """T: input tokens of one row of a batch."""
    seed: int = 34521
    """Chooses the order of samples. The same seed gives the same order for every world size."""
    packing: Literal["concat", "best_fit"] = field(default="concat", metadata={"omit_default": True})
    """`concat`: rows are cut from shards every T tokens. `best_fit`: documents are packed whole into rows, and only those longer than a
    row are cut; the dataset has to be packed for this seq_len, by `braid data pack`. What is left of a row is eos, without labels."""
    shuffle: Literal["full", "blocks"] = field(default="full", metadata={"omit_default": True})
    """`full`: any sample may follow any. `blocks`: each row reads whole blocks of about a million tokens, some of them at a time, which is
    what makes a corpus that no node can keep readable from S3."""
    shuffle_window: int = field(default=SHUFFLE_WINDOW, metadata={"omit_default": True})
    """Blocks among which the samples of a row are shuffled, for `shuffle=blocks`; a node keeps so many for each row and dataset."""
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
        if self.packing not in ("concat", "best_fit"):
            raise ValueError(f"data.packing={self.packing}: use concat or best_fit")
        if not 1 <= self.shuffle_window <= MOST_BLOCKS:
            raise ValueError(f"data.shuffle_window={self.shuffle_window}: use 1 to {MOST_BLOCKS}")
        if self.on_corrupt not in ("fail", "skip"):
            raise ValueError(f"data.on_corrupt={self.on_corrupt}: use fail or skip")
        if self.cache_limit < SMALLEST_CACHE:
            raise ValueError(f"data.cache_limit={self.cache_limit}: holds hardly a block for each row; use {SMALLEST_CACHE} or more")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"data.seed={self.seed}: must be between 0 and 2**63 - 1")
        self._check_sources()
        self._check_phases()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets that are trained on."""
        return tuple(source.dataset for source in self.sources) or (self.dataset,)

    def _check_sources(self) -> None:
        names = [source.dataset for source in self.sources]
        if names and self.dataset not in (DATASET, *names):
            raise ValueError(f"data.dataset={self.dataset}: data.sources names datasets too; use one of the two")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"data.sources: {twice[0]} is there twice; add up their ratios")
        takes_theirs = not self.phases or any(not phase.ratios for phase in self.phases)
        if names and takes_theirs and not any(source.ratio for source in self.sources):
            raise ValueError("data.sources: all ratios are 0; give one dataset more")

    def _check_phases(self) -> None:
        for number, phase in enumerate(self.phases, start=1):
            here, is_last = f"data.phases: phase {number}", number == len(self.phases)
            if is_last and (phase.steps or phase.tokens):
                raise ValueError(f"{here} is the last and ends at train.num_steps; leave out its steps and tokens")
            if not is_last and (phase.steps is None) == (phase.tokens is None):
                raise ValueError(f"{here} needs either steps or tokens, which say how long it lasts; only the last has neither")
            if unknown := [name for name in phase.ratios if name not in self.datasets]:
                raise ValueError(f"{here}: ratios.{unknown[0]}: is not in data.sources, which has {', '.join(self.datasets)}; add it there")

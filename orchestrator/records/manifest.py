"""What a checkpoint consists of: a model's weights, and where training wrote it, the rest of its state. No torch.

The manifest is written last: what no manifest names is never read.

The commit log holds the manifest's own digest, the manifest those of the files: nothing is unpickled that this run did not commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from data_pipeline.store.protocol import KeyMissing, ObjectStore
from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.errors import CheckpointCorrupt, NoCheckpoint
from orchestrator.records.commit_log import Commit, open_commit_log
from orchestrator.records.keys import CHECKPOINTS, manifest_key
from orchestrator.records.retention import still_there

VERSION = 3
SINCE_ORDER = {"omit_default": True}
"""Of what manifests before had not: left out at its default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPosition:
    """The first sample of the next step, for people: what is resumed from is the step."""

    epoch: int
    index: int
    """Position of the sample within the epoch's order; of a mixture, or with phases, of the row within the run, and `epoch` is 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDigest:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTerms:
    """What a checkpoint of training belongs to; only under the same terms can it be resumed."""

    data_position: DataPosition
    layout: ParallelConfig
    """The layout that wrote the checkpoint; any other can read it."""
    training_digest: str
    """What `orchestrator.config.training_digest` gives for the run."""
    dataset_digest: str
    """SHA-256 of the dataset's manifest as canonical JSON; of those of all datasets where there are several."""
    order_digest: str = field(default="", metadata=SINCE_ORDER)
    """`data_pipeline.order.plan.Plan.digest` up to the checkpoint's step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointManifest:
    version: int = VERSION
    run: str
    attempt: int
    step: int
    """Last step that went into the weights; the next to run is one more."""
    origin: str
    """How the weights came to be, for people: `trained`, `imported from …`, `average of …`."""
    model: ModelConfig
    training: TrainingTerms | None
    """None where there are weights only: no optimizer state, nothing to resume."""
    files: tuple[FileDigest, ...]
    torch_version: str
    created_at_s: float
    """Seconds since the epoch."""


def write_manifest(store: ObjectStore, manifest: CheckpointManifest) -> Commit:
    """Writes it and returns the entry that commits it."""
    key, data = manifest_key(manifest.step, manifest.attempt), codec.to_json(manifest)
    store.put(key, data)
    return Commit(attempt=manifest.attempt, step=manifest.step, manifest_key=key, manifest_sha256=hashlib.sha256(data).hexdigest())


def read_manifest(store: ObjectStore, commit: Commit) -> CheckpointManifest:
    """The manifest that was committed. Raises CheckpointCorrupt when it is missing or another, codec.DecodeError for another version's."""
    data = read_verified(store, commit.manifest_key, commit.manifest_sha256)
    where = store.url(commit.manifest_key)
    version = codec.load_json(data).get("version")
    if version != VERSION:
        raise codec.DecodeError(f"{where}: is of version {version}, this braid reads {VERSION}; use the braid that wrote it")
    return codec.from_json(CheckpointManifest, data, where)


def find_checkpoint(run_store: ObjectStore, step: int, *, who: str) -> CheckpointManifest:
    """The checkpoint of a step, the newest for -1. `who` names the run in messages. Raises NoCheckpoint, CheckpointCorrupt, StoreError."""
    trusted = still_there(open_commit_log(run_store).trusted(), {info.key for info in run_store.list(CHECKPOINTS)})
    if not trusted:
        raise NoCheckpoint(f"{who}: there is no committed checkpoint of it; see `braid runs` for the runs that there are")
    found = trusted[0] if step == -1 else next((commit for commit in trusted if commit.step == step), None)
    if found is None:
        raise NoCheckpoint(f"{who}: has no checkpoint of step {step}; use one of {', '.join(str(commit.step) for commit in trusted)}")
    return read_manifest(run_store, found)


def read_verified(store: ObjectStore, key: str, sha256: str) -> bytes:
    """The object, if it is what its digest says. Raises CheckpointCorrupt."""
    data = b""

    def read() -> str:
        nonlocal data
        data = store.get(key)
        return hashlib.sha256(data).hexdigest()

    require_digest(store, key, sha256, read)
    return data


def require_digest(store: ObjectStore, key: str, sha256: str, read: Callable[[], str]) -> None:
    """Calls `read`, which returns the digest of what it read. Raises CheckpointCorrupt.

    A second read tells a transfer that went wrong from an object that did: refusing a checkpoint is for good.
    """
    found = ""
    for _ in range(2):
        try:
            found = read()
        except KeyMissing as error:
            raise CheckpointCorrupt(f"{store.url(key)} is missing", key=key, expected=sha256) from error
        if found == sha256:
            return
    text = f"{store.url(key)} is not what was written: SHA-256 {found[:12]}…, committed was {sha256[:12]}…"
    raise CheckpointCorrupt(text, key=key, expected=sha256, found=found)

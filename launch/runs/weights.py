"""Weights in and out of the store: Hugging Face directories, checkpoints, averages."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from data_pipeline.config import StorageConfig
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DatasetMissing
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyMissing, ObjectStore
from launch.errors import UserError
from launch.runs.record import reserve_name, run_store_with_checkpoints
from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import default_serving, serving_from_hf
from model.weights.hf.files import open_hf, write_hf
from model.weights.hf.serving import Serving
from model.weights.source import WeightsMismatch
from orchestrator.records.configs import newest_config
from orchestrator.records.manifest import CheckpointManifest, find_checkpoint
from orchestrator.worker.weights import (
    AverageWeights,
    CheckpointWeights,
    Progress,
    Watched,
    open_weights,
    read_companions,
    write_weights,
)

HF_CONFIG = "config.json"
COMPANIONS = (
    HF_CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "generation_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files beside weights that an import keeps; config.json for what it says of serving."""
Stage = Callable[[str], Progress]
"""Begins a part of the work, given its name."""
Tell = Callable[[str], None]
"""Takes one line for the person who waits."""


def name_from(directory: Path) -> str:
    """A name for a run: the directory's, without what names can't have. Raises UserError where nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).lstrip("._-")[:63]
    if not name:
        raise UserError(f"{directory}: no run can be called like this; choose a name with --name")
    return name


def import_hf(storage: StorageConfig, directory: Path, name: str, *, stage: Stage) -> CheckpointManifest:
    """Makes the run `name` of a Hugging Face directory. Raises UserError, RunExists, Fenced, StoreError."""
    with _hf_errors():
        source = open_hf(directory)
        companions = {file: _read_companion(directory / file) for file in COMPANIONS if os.path.lexists(directory / file)}
        return write_weights(
            reserve_name(open_store(storage), name),
            Watched(source, stage("importing")),
            run=name,
            model=source.config,
            origin=f"imported from {directory.resolve()}",
            companions=companions,
        )


def average(
    storage: StorageConfig, sources: Sequence[tuple[str, int]], name: str, *, scratch: Path, stage: Stage, tell: Tell
) -> CheckpointManifest:
    """Makes the run `name` of the mean of checkpoints, given as (run, step), -1 for the newest step.

    Raises UserError, NoSuchRun, NoCheckpoint, CheckpointCorrupt, RunExists, Fenced, DataError, StoreError.
    """
    found = [_find(storage, run, step) for run, step in sources]
    for number, other in enumerate(found):
        _refuse_other_model(found[0], other)
        if str(other) in map(str, found[:number]):
            raise UserError(f"{other}: is among the checkpoints twice; name each once")
    store = open_store(storage)
    companions = _companions(store, found[0], tell)
    run_store = reserve_name(store, name)
    with ExitStack() as opened:
        mean = AverageWeights([opened.enter_context(_opened(one, scratch, stage)) for one in found])
        return write_weights(
            run_store,
            Watched(mean, stage("averaging")),
            run=name,
            model=found[0].manifest.model,
            origin=f"average of {', '.join(map(str, found))}",
            companions=companions,
        )


def export_hf(
    storage: StorageConfig, run: str, step: int, out: Path, *, dtype: torch.dtype | None, scratch: Path, stage: Stage, tell: Tell
) -> CheckpointManifest:
    """Writes a checkpoint, its newest for -1, as a directory that transformers loads.

    Raises UserError, NoSuchRun, NoCheckpoint, CheckpointCorrupt, DataError, StoreError.
    """
    found = _find(storage, run, step)
    _require_writable(out)
    companions = _companions(open_store(storage), found, tell)
    serving = _serving(found.manifest.model, companions.pop(HF_CONFIG, None))
    with ExitStack() as opened:
        opened.enter_context(_hf_errors())
        weights = opened.enter_context(_opened(found, scratch, stage))
        files = opened.enter_context(_as_files(companions))
        opened.enter_context(_write_errors(out))
        write_hf(out, Watched(weights, stage("writing")), found.manifest.model, dtype=dtype, serving=serving, other_files=files)
    return found.manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    run_store: ObjectStore
    manifest: CheckpointManifest

    def __str__(self) -> str:
        return f"{self.manifest.run}@{self.manifest.step}"


def _find(storage: StorageConfig, run: str, step: int) -> _Found:
    run_store = run_store_with_checkpoints(storage, run)
    return _Found(run_store=run_store, manifest=find_checkpoint(run_store, step, who=f"run {run}"))


def _opened(found: _Found, scratch: Path, stage: Stage) -> AbstractContextManager[CheckpointWeights]:
    return open_weights(found.run_store, found.manifest, scratch=scratch, progress=stage(f"reading {found}"))


def _refuse_other_model(first: _Found, other: _Found) -> None:
    for field in fields(ModelConfig):
        theirs, its = getattr(first.manifest.model, field.name), getattr(other.manifest.model, field.name)
        if theirs != its:
            raise UserError(f"{other}: model.{field.name} is {its} there and {theirs} in {first}; average checkpoints of one model")


def _companions(store: ObjectStore, found: _Found, tell: Tell) -> dict[str, bytes]:
    """The files that belong beside the weights: those that they were imported with, or those of the dataset that they were trained on.

    Of config.json only what it says of serving counts.
    """
    config = newest_config(found.run_store)
    if found.manifest.training is None or config is None:
        return read_companions(found.run_store, found.manifest)
    serving = {"max_position_embeddings": config.data.seq_len}
    try:
        dataset = load_manifest(store, config.data.dataset)
        tokenizer = store.get(dataset.tokenizer_key)
    except (DatasetMissing, KeyMissing) as error:
        tell(f"without a tokenizer: {error}")
        return {HF_CONFIG: json.dumps(serving).encode()}
    eos_token = tokenizer_from_json(tokenizer, where=store.url(dataset.tokenizer_key)).id_to_token(dataset.eos_id)
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos_token}).encode(),
        HF_CONFIG: json.dumps(serving | {"eos_token_id": dataset.eos_id}).encode(),
    }


def _serving(model: ModelConfig, hf_config: bytes | None) -> Serving:
    return default_serving(model) if hf_config is None else serving_from_hf(json.loads(hf_config))


def _read_companion(path: Path) -> bytes:
    """Raises UserError for what could not be read again, in a directory that was exported."""
    if not path.is_file():
        raise UserError(f"{path}: not a file; put the model's own there, or remove it")
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); give a file that you may read, or remove it") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download it again, or remove it") from error
    return data


def _require_writable(out: Path) -> None:
    """Before a large checkpoint is fetched in vain. Raises UserError where `out` is there already or can't be made."""
    with _write_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already; name a directory that does not exist yet")
        parent = out.resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=parent).cleanup()


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out}: a part of this path is a file and no directory; choose another place with --out") from error
    except OSError as error:
        raise UserError(f"{out}: can't be written ({error.strerror or error}); choose another place with --out") from error


@contextmanager
def _as_files(contents: Mapping[str, bytes]) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory, name) for name in contents]
        for path in paths:
            path.write_bytes(contents[path.name])
        yield paths


@contextmanager
def _hf_errors() -> Iterator[None]:
    try:
        yield
    except (HFFormatError, WeightsMismatch) as error:
        raise UserError(str(error)) from error

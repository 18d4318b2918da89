"""`braid import` and `braid export`: a Hugging Face directory becomes a run, a checkpoint becomes a Hugging Face directory."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from launch.errors import UserError
from launch.runs.record import reserve_name
from launch.weights.checkpoint import Stage, checkpoint_at, opened_weights
from launch.weights.companions import HF_CONFIG, companions_in, companions_of
from model.config import ModelConfig
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import default_serving, serving_from_hf
from model.weights.hf.files import open_hf, write_hf
from model.weights.hf.serving import Serving
from model.weights.source import WeightsMismatch
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.worker.weights import Watched, scratch_directory, write_weights


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
        companions = companions_in(directory)
        return write_weights(
            reserve_name(open_store(storage), name),
            Watched(source, stage("importing")),
            run=name,
            model=source.config,
            origin=f"imported from {directory.resolve()}",
            companions=companions,
        )


def export_hf(
    storage: StorageConfig,
    run: str,
    step: int,
    out: Path,
    *,
    dtype: torch.dtype | None,
    scratch: Path,
    stage: Stage,
    tell: Callable[[str], None],
) -> CheckpointManifest:
    """Writes a checkpoint, its newest for -1, as a directory that transformers loads.

    Raises UserError, NoSuchRun, NoCheckpoint, CheckpointCorrupt, DataError, StoreError.
    """
    with ExitStack() as exits:
        exits.enter_context(_hf_errors())
        found = exits.enter_context(checkpoint_at(storage, run, step))
        _require_writable(out)
        companions = companions_of(found, open_store(storage), tell)
        serving = _serving(found.manifest.model, companions.pop(HF_CONFIG, None))
        weights = exits.enter_context(opened_weights(found, scratch, stage))
        files = exits.enter_context(_as_files(companions, scratch))
        exits.enter_context(_write_errors(out))
        write_hf(out, Watched(weights, stage("writing")), found.manifest.model, dtype=dtype, serving=serving, other_files=files)
        return found.manifest


def _serving(model: ModelConfig, hf_config: bytes | None) -> Serving:
    return default_serving(model) if hf_config is None else serving_from_hf(json.loads(hf_config))


def _require_writable(out: Path) -> None:
    """Called before a large checkpoint is fetched, maybe in vain. Raises UserError where `out` is there already or can't be made."""
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
def _as_files(contents: Mapping[str, bytes], scratch: Path) -> Iterator[list[Path]]:
    with scratch_directory(scratch) as directory:
        paths = [directory / name for name in contents]
        for path in paths:
            path.write_bytes(contents[path.name])
        yield paths


@contextmanager
def _hf_errors() -> Iterator[None]:
    try:
        yield
    except (HFFormatError, WeightsMismatch) as error:
        raise UserError(str(error)) from error

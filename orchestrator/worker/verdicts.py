"""Verdicts of the kernels' self-check, kept on the node: what passed on a GPU counts there for a day, unless it is doubted."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.errors import ERRORS, Kind

VERDICTS = "kernels"
"""Where they lie in the node's cache."""
COUNTS_FOR_S = 86_400.0
"""GPUs age, and kernels that were right come out wrong."""
DOUBTS = ("diverged", "hardware", "kernels")
"""Causes of a failure after which what was found right on the GPU is to be checked again."""
CUDA_ERRORS = ("CUDA error", "[CUDA]")
"""How torch and Triton begin to say what went wrong on a GPU, which for memory that is full they do not."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
DRIVER = Path("/proc/driver/nvidia/version")
COMPILERS = ("triton", "flash-linear-attention")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All that decides whether kernels are right. That they are is said by a file of it: a wrong one is never kept."""

    gpu: str
    """UUID."""
    code: str
    """Digest of the whole model's source."""
    versions: dict[str, str]
    """Of torch, of what compiles kernels or has its own, and of the driver."""
    boot: str
    """Of the machine."""
    model: ModelConfig
    parallel: ParallelConfig
    is_packed: bool


def verdict_on(device: torch.device, model: ModelConfig, parallel: ParallelConfig, *, is_packed: bool) -> Verdict | None:
    """What would be said of this rank's kernels; None on a device without a name that stays."""
    gpu = uuid_of(device)
    if not gpu:
        return None
    return Verdict(gpu=gpu, code=code_digest(), versions=_versions(), boot=_text(BOOT), model=model, parallel=parallel, is_packed=is_packed)


def is_known(verdict: Verdict, cache_dir: Path, *, now_s: float) -> bool:
    """Whether these kernels passed here within a day. A file that is damaged says nothing."""
    path = _path(verdict, cache_dir)
    try:
        return now_s - path.stat().st_mtime < COUNTS_FOR_S and path.read_bytes() == codec.to_json(verdict)
    except OSError:
        return False


def keep(verdict: Verdict, cache_dir: Path) -> None:
    """For the next attempt. What can't be written is no loss: it checks again."""
    path = _path(verdict, cache_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(f".{os.getpid()}.part")
        written.write_bytes(codec.to_json(verdict))
        os.replace(written, path)
    except OSError as error:
        log.warning("the next attempt checks its kernels again: %s", error)


@contextmanager
def forgotten_in_doubt(device: torch.device, cache_dir: Path) -> Iterator[None]:
    """Where what is done here fails in a way that its kernels may be to blame for, no verdict on this GPU is kept."""
    gpu = uuid_of(device)  # asked before: once its context is broken, nothing is answered
    try:
        yield
    except Exception as error:
        if gpu and _casts_doubt(error):
            _forget(gpu, cache_dir)
        raise


def uuid_of(device: torch.device) -> str:
    """ "" for what is no GPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


@functools.cache
def code_digest() -> str:
    """Of every source file of the model, with its name, as of the first call in this process."""
    root, found = Path(inspect.getfile(ModelConfig)).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()


def _casts_doubt(error: Exception) -> bool:
    cause = ERRORS.get(type(error).__name__, Kind()).cause
    return cause in DOUBTS or any(words in str(error) for words in CUDA_ERRORS)


def _forget(gpu: str, cache_dir: Path) -> None:
    try:
        for path in (cache_dir / VERDICTS).glob(f"{gpu}-*.json"):
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the next attempt does not check its kernels again, though it should: %s", error)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {"torch": torch.__version__, "driver": _text(DRIVER)}
    for name in COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _text(path: Path) -> str:
    """ "" where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _path(verdict: Verdict, cache_dir: Path) -> Path:
    return cache_dir / VERDICTS / f"{verdict.gpu}-{codec.digest(verdict)[:16]}.json"

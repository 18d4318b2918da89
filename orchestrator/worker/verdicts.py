"""Verdicts of the kernels' self-check, kept on the node: what passed on a GPU is not checked there again."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec

VERDICTS = "kernels"
"""Where they lie in the node's cache."""
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
    """Of torch, and of what compiles kernels or has its own."""
    model: ModelConfig
    parallel: ParallelConfig
    is_packed: bool


def verdict_on(device: torch.device, model: ModelConfig, parallel: ParallelConfig, *, is_packed: bool) -> Verdict | None:
    """What would be said of this rank's kernels; None on a device without a name that stays."""
    gpu = uuid_of(device)
    return Verdict(gpu=gpu, code=code_digest(), versions=_versions(), model=model, parallel=parallel, is_packed=is_packed) if gpu else None


def is_known(verdict: Verdict, cache_dir: Path) -> bool:
    """Whether these kernels passed here. A file that is damaged says nothing."""
    try:
        return _path(verdict, cache_dir).read_bytes() == codec.to_json(verdict)
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


def _versions() -> dict[str, str]:
    found: dict[str, str] = {"torch": torch.__version__}
    for name in COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _path(verdict: Verdict, cache_dir: Path) -> Path:
    return cache_dir / VERDICTS / f"{verdict.gpu}-{codec.digest(verdict)[:16]}.json"

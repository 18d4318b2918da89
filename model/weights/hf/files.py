"""Directories of safetensors ⇄ weights by our names, a tensor at a time. What is in them is for the families to say."""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from stat import S_ISREG

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import ModelConfig
from model.parameters import parameter_shapes
from model.weights.hf.dtypes import DTYPES, cast_dtype
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import config_from_hf, config_to_hf, default_serving, family_for, family_of_hf, serving_from_hf
from model.weights.hf.family import Pairing, find_parameters, tensor_map_of
from model.weights.hf.fields import Json
from model.weights.hf.rearrange import parameter_from, tensors_from
from model.weights.hf.serving import Serving
from model.weights.own_directory import own_directory, remove_orphans
from model.weights.source import TensorInfo, WeightSource, check_tensors

SHARD_BYTES = 1 << 30
"""The largest file of an export, unless one tensor is larger."""
_DEEPEST_NESTING = 50
_LARGEST = torch.finfo(torch.float32).max
"""Of values: training holds weights in fp32, whatever they are stored as."""
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class HFWeights:
    """A Hugging Face directory as a WeightSource: nothing is read before it is asked for. Made by `open_hf`."""

    config: ModelConfig
    serving: Serving
    tensors: Mapping[str, TensorInfo]
    pairings: Mapping[str, Pairing]
    """Every parameter's name → the tensors that hold it."""
    files: Mapping[str, Path]
    """Every key of the checkpoint → the file that has it."""

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own. Raises HFFormatError for one with values that are not finite."""
        pairing = self.pairings[name]
        return parameter_from(pairing, name, [_read_finite(self.files[key], key) for key in pairing.tensors])


def open_hf(directory: Path) -> HFWeights:
    """Opens a directory in any spelling that its family understands.

    Raises HFFormatError, naming the key: for another architecture, and for a tensor that is missing, unexpected or of another shape;
    naming the file: for one that can't be read, is damaged, or is not what the index says.
    """
    hf = _read_json(directory / CONFIG)
    config = config_from_hf(hf)
    found = _find_tensors(directory)
    pairings = find_parameters(tensor_map_of(family_of_hf(hf), config), {key: info.shape for key, (_, info) in found.items()})
    dtypes = {name: found[next(iter(pairing.tensors))][1].dtype for name, pairing in pairings.items()}
    return HFWeights(
        config=config,
        serving=serving_from_hf(hf),
        tensors={name: TensorInfo(shape, dtypes[name]) for name, shape in parameter_shapes(config).items()},
        pairings=pairings,
        files={key: path for key, (path, _) in found.items()},
    )


def write_hf(
    directory: Path,
    source: WeightSource,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    serving: Serving | None = None,
    other_files: Sequence[Path] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """A directory that transformers ≥ 5.23 loads: sharded safetensors, config.json, and copies of `other_files` (a tokenizer's).

    Tensors are cast to `dtype`, or stay what they are; A_log and dt_bias stay fp32 if they are. `serving` may be left out where the
    vocabulary is the one of the family's own tokenizer. One shard is in memory at a time. The directory appears complete or not at all.
    Raises HFFormatError for a model that no family can hold, WeightsMismatch when `source` isn't this model's, FileExistsError when
    something is there already, and another OSError when it can't be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not empty; name a directory that doesn't exist yet")
    check_tensors(source.tensors, parameter_shapes(config))
    dtypes = {name: info.dtype if dtype is None else cast_dtype(name, info.dtype, dtype) for name, info in source.tensors.items()}
    serving = default_serving(config) if serving is None else serving
    hf_config = config_to_hf(config, serving=serving, dtype=str(dtypes["head.weight"]).removeprefix("torch."))
    pairings = tensor_map_of(family_for(config), config).written
    with _appearing_at_once(directory) as partial:
        _write_shards(partial, source, pairings, dtypes, shard_bytes)
        for path in other_files:
            shutil.copyfile(path, partial / path.name)
        _write_json(partial / CONFIG, hf_config)


def plan_shards(sizes_bytes: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """Names in order, filled into shards of at most `shard_bytes`; a larger tensor has one of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size_bytes in sizes_bytes.items():
        if shards[-1] and filled + size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size_bytes
    return shards


def _write_shards(
    directory: Path, source: WeightSource, pairings: Sequence[Pairing], dtypes: Mapping[str, torch.dtype], shard_bytes: int
) -> None:
    """The tensors of a pairing lie in one shard, which goes by the name of its first parameter."""
    pairing_of = {next(iter(pairing.parameters)): pairing for pairing in pairings}
    sizes_bytes = {name: _size_bytes(pairing, dtypes) for name, pairing in pairing_of.items()}
    shards = plan_shards(sizes_bytes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors: dict[str, Tensor] = {}
        for pairing in (pairing_of[name] for name in names):
            tensors |= tensors_from(pairing, [source.read(name).to(dtypes[name]) for name in pairing.parameters])
        _save(tensors, directory / file_name)
        weight_map |= dict.fromkeys(tensors, file_name)
    if len(shards) > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes_bytes.values())}, "weight_map": weight_map})


def _size_bytes(pairing: Pairing, dtypes: Mapping[str, torch.dtype]) -> int:
    return sum(prod(shape) * dtypes[name].itemsize for name, shape in pairing.parameters.items())


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors leaves it to its writer alone


@contextmanager
def _appearing_at_once(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that becomes it at the end, or vanishes."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(directory.parent.glob(f".{glob.escape(directory.name)}.*.partial"))
    with own_directory(directory.parent / f".{directory.name}.{uuid.uuid4().hex}.partial") as partial:
        yield partial
        partial.rename(directory)


def _find_tensors(directory: Path) -> dict[str, tuple[Path, TensorInfo]]:
    """Every key in the checkpoint, and the file that has it: the one that the index says, where there is an index."""
    if not (directory / INDEX).exists():
        if not (directory / WEIGHTS).exists():
            raise HFFormatError(f"{directory}: neither {WEIGHTS} nor {INDEX}; name a Hugging Face directory with safetensors")
        return {key: (directory / WEIGHTS, info) for key, info in _header(directory / WEIGHTS).items()}
    weight_map = _read_weight_map(directory / INDEX)
    found = {}
    for name in sorted(set(weight_map.values())):
        for key, info in _header(directory / name).items():
            if weight_map.get(key) != name:
                said = f"has it in {weight_map[key]}" if key in weight_map else "does not have it"
                raise HFFormatError(f"{key}: is in {name}, but {INDEX} {said}; download both again")
            found[key] = directory / name, info
    for key, name in weight_map.items():
        if key not in found:
            raise HFFormatError(f"{key}: not in {name}, where {INDEX} has it; download both again")
    return found


def _read_weight_map(path: Path) -> dict[str, str]:
    """Every key → the name of its file, below the directory of the index."""
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise HFFormatError(f"{path}: weight_map={weight_map!r}: not what has each tensor's file; download it again")
    for key, name in weight_map.items():
        if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise HFFormatError(f"{path}: {key} is in {name!r}, which names no file beside it; download it again")
    return weight_map


def _header(path: Path) -> dict[str, TensorInfo]:
    infos = {}
    try:
        _content_of(path, 0)  # safe_open says of every trouble that there is no such file
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                tensor = file.get_slice(key)
                if tensor.get_dtype() not in DTYPES:
                    raise HFFormatError(f"{key}: stored as {tensor.get_dtype()}; get a checkpoint in {', '.join(DTYPES)}")
                infos[key] = TensorInfo(tuple(tensor.get_shape()), DTYPES[tensor.get_dtype()])
    except FileNotFoundError as error:
        raise HFFormatError(f"{path}: named by {INDEX}, but not there; download it again") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise HFFormatError(f"{path}: damaged ({error}); download it again") from error
    return infos


def _read_finite(path: Path, key: str) -> Tensor:
    tensor = _read(path, key)
    if not all(abs(float(edge)) <= _LARGEST for edge in tensor.aminmax()):  # NaN among them makes both NaN
        raise HFFormatError(f"{key}: has values that are not finite, in {path}; get a checkpoint of a sound model")
    return tensor


def _read(path: Path, key: str) -> Tensor:
    """Into memory of its own: a mapped tensor would hold on to its whole file."""
    with safe_open(path, framework="pt", backend="pread") as file:
        return file.get_tensor(key)


def _content_of(path: Path, num_bytes: int = -1) -> bytes:
    """Raises OSError, also for what has no end or is waited for without one."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("a pipe, socket or device, not a file")
        return file.read(num_bytes)


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(_content_of(path))  # of bytes it takes a byte order mark too
    except FileNotFoundError as error:
        raise HFFormatError(f"{path}: not there; name a directory with a Hugging Face model") from error
    except NotADirectoryError as error:
        raise HFFormatError(f"{path.parent}: not a directory; name the one that holds {path.name}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise HFFormatError(f"{path}: damaged ({error}); download it again") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    if not isinstance(content, dict):
        raise HFFormatError(f"{path}: not a JSON object; download it again")
    if _is_nested(content, _DEEPEST_NESTING):
        raise _too_deep(path)
    return content


def _is_nested(value: object, depth: int) -> bool:
    """Whether lists and objects lie in one another more than `depth` deep, so that nothing could be said of them."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(children) and (depth == 0 or any(_is_nested(child, depth - 1) for child in children))


def _too_deep(path: Path) -> HFFormatError:
    return HFFormatError(f"{path}: damaged (it is nested too deep); download it again")


def _unreadable(path: Path, error: OSError) -> HFFormatError:
    return HFFormatError(f"{path}: can't be read ({error.strerror or error}); give a file that you may read")


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

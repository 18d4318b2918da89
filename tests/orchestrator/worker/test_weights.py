"""Weights as checkpoints, and checkpoints as weights: any source in, any layout out, and never all of it in memory."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipeline.errors import CacheUnusable
from data_pipeline.store.protocol import StoreUnavailable
from model.parameters import parameter_shapes
from model.weights.source import TensorInfo
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import CheckpointManifest, find_checkpoint
from orchestrator.worker.weights import AverageWeights, Watched, open_weights, read_companions, write_weights
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.ranks import flip_a_byte, steps_on_store
from tests.orchestrator.worker.tiny_run import MODEL

pytestmark = pytest.mark.filterwarnings("error")


@dataclass(frozen=True)
class InMemory:
    """Weights for a test."""

    held: dict[str, Tensor]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in self.held.items()}

    def read(self, name: str) -> Tensor:
        return self.held[name]


def random_weights(seed: int, dtype: torch.dtype = torch.bfloat16) -> InMemory:
    """Of the tiny model; A_log stays fp32 as it does in released checkpoints."""
    generator = torch.Generator().manual_seed(seed)
    shapes = parameter_shapes(MODEL)
    return InMemory(
        {
            name: torch.randn(shape, generator=generator).to(torch.float32 if name.endswith("A_log") else dtype)
            for name, shape in shapes.items()
        }
    )


def write(store: MemoryStore, source: InMemory, *, companions: dict[str, bytes] | None = None) -> CheckpointManifest:
    return write_weights(
        store, source, run="first", model=MODEL, origin="imported from /hf", companions=companions or {}, file_size_bytes=4000
    )


def read(store: MemoryStore, manifest: CheckpointManifest, scratch: Path) -> dict[str, Tensor]:
    with open_weights(store, manifest, scratch=scratch, progress=lambda done, total: None) as weights:
        return {name: weights.read(name).clone() for name in weights.tensors}


def test_weights_come_back_bit_for_bit_in_their_own_dtypes(tmp_path: Path):
    store, source = MemoryStore(), random_weights(1)

    found = read(store, write(store, source), tmp_path)

    assert found.keys() == source.held.keys()
    for name, tensor in found.items():
        assert tensor.dtype == source.held[name].dtype
        assert torch.equal(tensor, source.held[name]), name


def test_a_written_checkpoint_says_what_it_is_and_counts(tmp_path: Path):
    store = MemoryStore()

    manifest = write(store, random_weights(1))

    assert find_checkpoint(store, -1, who="run first") == manifest
    assert (manifest.step, manifest.model, manifest.training, manifest.origin) == (0, MODEL, None, "imported from /hf")
    data_files = [file for file in manifest.files if file.name.endswith(".distcp")]
    assert len(data_files) > 5, "split into files of about the asked size"
    assert list(tmp_path.iterdir()) == []


def test_companions_are_copied_as_they_are_and_checked(tmp_path: Path):
    store = MemoryStore()
    companions = {"tokenizer.json": b'{"a": 1}\r\n', "chat_template.jinja": "{{ ä }}".encode()}
    manifest = write(store, random_weights(1), companions=companions)

    assert read_companions(store, manifest) == companions
    flip_a_byte(store, checkpoint_directory(0, 1) + "companions/tokenizer.json")
    with pytest.raises(CheckpointCorrupt, match=r"companions/tokenizer.json is not what was written"):
        read_companions(store, manifest)


def test_a_damaged_file_is_refused(tmp_path: Path):
    store = MemoryStore()
    manifest = write(store, random_weights(1))
    flip_a_byte(store, checkpoint_directory(0, 1) + "__0_3.distcp")

    with pytest.raises(CheckpointCorrupt, match=r"__0_3.distcp is not what was written"):
        read(store, manifest, tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_every_file_is_fetched_once_however_many_tensors_are_read(tmp_path: Path):
    store = MemoryStore()
    manifest = write(store, random_weights(1))
    fetched: list[str] = []
    store.fault = lambda operation, key: fetched.append(key) if operation.startswith("get") else None

    read(store, manifest, tmp_path)

    assert sorted(fetched) == sorted(checkpoint_directory(0, 1) + file.name for file in manifest.files)


def test_an_import_that_died_is_cleared_away_by_the_next(tmp_path: Path):
    store, uploads = MemoryStore(), []

    def fail_at_the_third_file(operation: str, key: str) -> None:
        uploads.append(key)
        if operation == "put" and len([one for one in uploads if one.endswith(".distcp")]) == 3:
            raise StoreUnavailable(f"{key}: no answer")

    store.fault = fail_at_the_third_file
    with pytest.raises(StoreUnavailable):
        write(store, random_weights(1))
    assert open_commit_log(store).trusted() == []
    store.fault = lambda operation, key: None

    manifest = write(store, random_weights(1))

    assert manifest.attempt == 2
    assert steps_on_store(store) == {"step-000000000-a0002"}


def test_progress_ends_at_the_size_of_the_weights(tmp_path: Path):
    store, source = MemoryStore(), random_weights(1)
    size_bytes = sum(tensor.nbytes for tensor in source.held.values())
    written: list[tuple[int, int]] = []
    fetched: list[tuple[int, int]] = []

    manifest = write(store, Watched(source, lambda done, total: written.append((done, total))))
    with open_weights(store, manifest, scratch=tmp_path, progress=lambda done, total: fetched.append((done, total))):
        pass

    for told in (written, fetched):
        assert told == sorted(told)
        assert told[-1] == (size_bytes, size_bytes)


def test_an_average_is_summed_in_fp64_and_rounded_once():
    large, small = torch.tensor([2.0**24, -(2.0**24)]), torch.tensor([1.0, 1.0])
    mean = AverageWeights([InMemory({"w": tensor}) for tensor in (large, small, small, -large)])

    assert mean.tensors == {"w": TensorInfo((2,), torch.float32)}
    assert torch.equal(mean.read("w"), torch.tensor([0.5, 0.5])), "in fp32 the ones vanish beside 2**24"


def test_an_average_of_bf16_weights_is_fp32_and_that_of_equals_is_their_own(tmp_path: Path):
    first, second = random_weights(1), random_weights(2)

    mean = AverageWeights([first, second]).read("embed.weight")
    same = AverageWeights([first, first, first]).read("embed.weight")

    assert mean.dtype == torch.float32
    assert torch.equal(mean, (first.held["embed.weight"].double() + second.held["embed.weight"].double()).div(2).float())
    assert torch.equal(same, first.held["embed.weight"].float())


def test_a_scratch_place_that_can_not_be_is_one_line(tmp_path: Path):
    store = MemoryStore()
    manifest = write(store, random_weights(1))
    (tmp_path / "file").write_text("")

    with pytest.raises(CacheUnusable, match=r"^\S+/file: can't be written \(File exists\); set BRAID_HOME"):
        read(store, manifest, tmp_path / "file")


BOUNDED = """
import resource, sys, threading
from pathlib import Path
import torch
from data_pipeline.store.local import LocalStore
from model.weights.source import TensorInfo
from orchestrator.records import verified
from orchestrator.worker.weights import AverageWeights, open_weights, write_weights
from tests.orchestrator.worker.tiny_run import MODEL

root, file_bytes, limit_bytes, num_tensors = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
tensor_elements = file_bytes // 8

class Made:
    def __init__(self, num_tensors, value):
        self.tensors = {f"layers.{i}": TensorInfo((tensor_elements // 64, 64), torch.float32) for i in range(num_tensors)}
        self.value = value

    def read(self, name):
        return torch.full(self.tensors[name].shape, self.value + int(name.split(".")[1]))

def write(store, source):
    return write_weights(store, source, run="r", model=MODEL, origin="made", companions={}, file_size_bytes=file_bytes)

def whole_way(root, num_tensors):
    stores = [LocalStore(root / "a"), LocalStore(root / "b"), LocalStore(root / "mean")]
    manifests = [write(store, Made(num_tensors, value)) for store, value in zip(stores, (1.0, 3.0))]
    def opened(store, manifest):
        return open_weights(store, manifest, scratch=root / "scratch", progress=lambda *_: None)
    with opened(stores[0], manifests[0]) as first, opened(stores[1], manifests[1]) as second:
        manifest = write(stores[2], AverageWeights([first, second]))
    with opened(stores[2], manifest) as mean:
        for name in mean.tensors:
            assert (mean.read(name) == 2.0 + int(name.split(".")[1])).all()

def data_bytes():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))

torch.set_num_threads(1)
threading.stack_size(2**18)
verified.IN_MEMORY_BYTES = 2 * file_bytes
whole_way(root / "warm", 2)
limit = data_bytes() + limit_bytes
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
whole_way(root / "bounded", num_tensors)
"""


def run_bounded(root: Path, *, limit_bytes: int, num_tensors: int) -> subprocess.CompletedProcess[str]:
    """Imports two models, averages them and reads the mean, in files of 8 MiB, with so much more memory than after two tensors."""
    arguments = [str(root), str(8 * 2**20), str(limit_bytes), str(num_tensors)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # what is freed is given back at once
    command = [sys.executable, "-c", BOUNDED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def test_no_more_memory_is_taken_for_a_larger_model(tmp_path: Path):
    """Five files' worth, of which two are read at once; a model has twelve, and of two models the mean is taken."""
    done = run_bounded(tmp_path, limit_bytes=40 * 2**20, num_tensors=24)
    assert done.returncode == 0, done.stderr[-2000:]

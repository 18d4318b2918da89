"""Reading a checkpoint's files: several at once, each verified before anybody sees it, in memory that is bounded and used again."""

import hashlib
import threading

import pytest
import torch

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records import verified
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import CheckpointManifest, FileDigest
from orchestrator.records.verified import VerifiedFiles, num_at_once
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import MODEL

DIRECTORY = checkpoint_directory(3, 1)


def written(sizes: dict[str, int]) -> tuple[MemoryStore, VerifiedFiles]:
    """A store with files of these sizes, and a reader of them."""
    store = MemoryStore()
    for number, (name, size_bytes) in enumerate(sizes.items()):
        store.put(DIRECTORY + name, bytes([number]) * size_bytes)
    files = [(name, store.objects[DIRECTORY + name]) for name in sizes]
    digests = tuple(FileDigest(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files)
    manifest = CheckpointManifest(
        run="first", attempt=1, step=3, origin="trained", model=MODEL, training=None, files=digests, torch_version="", created_at_s=0.0
    )
    return store, VerifiedFiles(store, manifest)


def read_all(files: VerifiedFiles, names: list[str]) -> dict[str, bytes]:
    seen: dict[str, bytes] = {}
    files.read_each(names, lambda name, data: seen.update({name: bytes(data)}))
    return seen


@pytest.fixture(autouse=True)
def two_hands_and_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "NUM_HANDS", 2)
    monkeypatch.setattr(verified, "PIECE_BYTES", 16)


def test_files_arrive_whole_whatever_their_size():
    store, files = written({"empty": 0, "less": 15, "one": 16, "more": 17, "many": 100})

    assert read_all(files, ["empty", "less", "one", "more", "many"]) == {
        key.removeprefix(DIRECTORY): data for key, data in store.objects.items()
    }


def test_one_file_does_not_wait_for_the_other():
    store, files = written({"a": 8, "b": 8})
    both = threading.Barrier(2, timeout=20)
    store.fault = lambda operation, key: both.wait() and None

    assert read_all(files, ["a", "b"]).keys() == {"a", "b"}


def test_the_pieces_of_a_file_are_fetched_side_by_side():
    store, files = written({"a": 3 * 16 - 1})
    all_three = threading.Barrier(3, timeout=20)
    store.fault = lambda operation, key: all_three.wait() and None

    assert read_all(files, ["a"]) == {"a": bytes(47)}


def test_memory_is_used_again_from_file_to_file():
    _, files = written({str(number): 1000 + number for number in range(20)})
    places: set[int] = set()

    files.read_each([str(number) for number in range(20)], lambda _, data: places.add(torch.frombuffer(data, dtype=torch.uint8).data_ptr()))

    assert len(places) <= 2


@pytest.mark.parametrize(
    ("sizes", "number"),
    [([], 1), ([50], 1), ([300, 10], 1), ([60, 40, 1], 2), ([60, 50], 1), ([10] * 20, 8), ([0, 0], 2)],
)
def test_as_many_files_are_under_way_as_fit_into_the_memory(sizes: list[int], number: int):
    assert num_at_once(sizes, most=8, memory_bytes=100) == number


@pytest.mark.parametrize(
    "broken",
    [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:20] + b"x" + data[21:], lambda data: b""],
    ids=["shorter", "longer", "changed", "emptied"],
)
def test_nobody_sees_a_file_that_is_not_what_was_written(broken):
    store, files = written({"good": 64, "bad": 64})
    store.objects[DIRECTORY + "bad"] = broken(store.objects[DIRECTORY + "bad"])
    seen: list[str] = []

    with pytest.raises(CheckpointCorrupt, match="bad is not what was written") as caught:
        files.read_each(["good", "bad"], lambda name, _: seen.append(name))

    assert "bad" not in seen
    assert caught.value.expected == hashlib.sha256(bytes([1]) * 64).hexdigest()


def test_a_transfer_that_went_wrong_once_is_made_again():
    store, files = written({"a": 40})
    right = store.objects[DIRECTORY + "a"]
    store.objects[DIRECTORY + "a"] = b"x" * 40
    reads: list[str] = []

    def heal(operation: str, key: str) -> None:
        reads.append(operation)
        if len(reads) > 3:
            store.objects[key] = right

    store.fault = heal
    assert read_all(files, ["a"]) == {"a": right}


def test_a_store_that_is_away_ends_the_reading():
    store, files = written({str(number): 100 for number in range(9)})

    def away(operation: str, key: str) -> None:
        if key.endswith("4"):
            raise StoreUnavailable("no answer")

    store.fault = away
    with pytest.raises(StoreUnavailable):
        read_all(files, [str(number) for number in range(9)])

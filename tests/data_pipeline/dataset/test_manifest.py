import hashlib
import json

import pytest

from data_pipeline.dataset.manifest import build_sample_table, load_manifest, manifest_from_json, manifest_key, manifest_to_json
from data_pipeline.errors import DatasetMissing, DatasetTooSmall, ManifestInvalid
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

REMOVE = object()


def test_a_manifest_survives_its_json() -> None:
    store = MemoryStore()
    manifest = put_dataset(store, [1, 2, 0], [3, 0], dtype="uint32")
    assert load_manifest(store, "tiny") == manifest
    assert manifest_from_json(manifest_to_json(manifest), where="here") == manifest


def test_the_bytes_of_a_manifest_never_change_between_versions() -> None:
    text = manifest_to_json(put_dataset(MemoryStore(), [1, 2, 0], [3, 0], dtype="uint32", is_paged=False))
    assert hashlib.sha256(text).hexdigest() == "7630587220e82427dcb0dd2e6247fce3bb592efd0f3c05f146927ff18b384424"
    text = manifest_to_json(put_dataset(MemoryStore(), [1, 2, 0], [3, 0], dtype="uint32"))
    assert hashlib.sha256(text).hexdigest() == "44a496c6860a1bc2aa2326b01c59c0b667ab113447b3cca8a5439c455a21ccbc"


def test_a_missing_dataset_says_how_to_build_it() -> None:
    with pytest.raises(DatasetMissing, match=r"^memory:datasets/nothing/manifest.json: no such dataset; build it with `braid data build`"):
        load_manifest(MemoryStore(), "nothing")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("version", REMOVE),
        ("dtype", "int8"),
        ("dtype", ["uint16"]),
        ("eos_id", 1000),
        ("eos_id", True),
        ("vocab_size", 70_000),
        ("vocab_size", "many"),
        ("tokenizer_key", "../../runs/secret"),
        ("tokenizer_key", REMOVE),
        ("name", ".."),
        ("name", 3),
        ("shards", {}),
        ("shards", [1]),
        ("surprise", 1),
    ],
)
def test_a_field_that_is_wrong_is_named_with_its_file(field: str, value: object) -> None:
    fields = json.loads(manifest_to_json(put_dataset(MemoryStore(), [1, 0])))
    fields[field] = value
    if value is REMOVE:
        del fields[field]
    with pytest.raises(ManifestInvalid, match=r"^s3://x/manifest.json: .*; rebuild it with `braid data build`$") as caught:
        manifest_from_json(json.dumps(fields).encode(), where="s3://x/manifest.json")
    assert str(value if value == "../../runs/secret" else field) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("key", "a/../b"), ("num_tokens", -1), ("size_bytes", 5), ("size_bytes", 4.0), ("sha256", "../../etc"), ("key", 1)]
)
def test_a_shard_that_is_wrong_is_refused(field: str, value: object) -> None:
    fields = json.loads(manifest_to_json(put_dataset(MemoryStore(), [1, 0])))
    fields["shards"][0][field] = value
    with pytest.raises(ManifestInvalid, match=r"^here: "):
        manifest_from_json(json.dumps(fields).encode(), where="here")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 10**5], ids=range(6))
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestInvalid, match=r"^here: "):
        manifest_from_json(text, where="here")


def test_a_dataset_name_cant_reach_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"^data\.dataset="):
        manifest_key("../runs/first")


def test_samples_are_cut_from_the_shards_in_their_order() -> None:
    manifest = put_dataset(MemoryStore(), list(range(9)), [1, 2], [], list(range(13)))
    table = build_sample_table(manifest, seq_len=4)
    assert table.num_samples == manifest.num_samples(4) == 2 + 0 + 0 + 3
    assert [(found.shard, found.start) for found in map(table.locate, range(5))] == [(0, 0), (0, 4), (3, 0), (3, 4), (3, 8)]


def test_a_dataset_without_a_single_sample_says_so() -> None:
    manifest = put_dataset(MemoryStore(), [1, 2, 3, 4], [1])
    assert build_sample_table(manifest, seq_len=3).num_samples == 1
    with pytest.raises(DatasetTooSmall, match=r"^data\.seq_len=4: the longest shard of dataset tiny has 4 tokens; use less"):
        build_sample_table(manifest, seq_len=4)

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from data_pipeline.config import DataConfig, StorageConfig, check_name


@pytest.mark.parametrize(
    "root", ["s3://bucket", "s3://bucket/prefix", "s3://my.bucket-1/deep/prefix/", "/data/braid", "relative/dir", "~/braid"]
)
def test_a_bucket_or_a_directory_is_a_root(root: str) -> None:
    assert StorageConfig(root=root).is_s3 == root.startswith("s3://")


def test_an_s3_root_falls_into_bucket_and_prefix() -> None:
    assert StorageConfig(root="s3://bucket/deep/prefix/").bucket_and_prefix() == ("bucket", "deep/prefix")
    assert StorageConfig(root="s3://bucket").bucket_and_prefix() == ("bucket", "")


@pytest.mark.parametrize(
    "root",
    ["", "s3://", "s3:bucket", "s3:///prefix", "s3://Bucket/x", "s3://b/x", "gs://bucket", "s3://bucket/../x", "s3://bucket//x", "/a\nb"],
)
def test_anything_else_names_the_key_and_the_remedy(root: str) -> None:
    with pytest.raises(ValueError, match=r"^storage\.root=.*use|^storage\.root=.*set it to"):
        StorageConfig(root=root)


def test_credentials_in_the_endpoint_are_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match=r"^storage\.endpoint_url: holds credentials; put them into AWS_ACCESS_KEY_ID") as caught:
        StorageConfig(root="s3://bucket", endpoint_url="http://key:topsecret@host:80")
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "endpoint_url"), [("s3://bucket", "host:9000"), ("s3://bucket", "ftp://host"), ("/data", "http://host:9000")]
)
def test_an_endpoint_must_be_an_http_server_and_go_with_s3(root: str, endpoint_url: str) -> None:
    with pytest.raises(ValueError, match=r"^storage\.endpoint_url="):
        StorageConfig(root=root, endpoint_url=endpoint_url)


def test_a_deadline_is_above_zero() -> None:
    for deadline_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^storage\.deadline_s="):
            StorageConfig(root="/data", deadline_s=deadline_s)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ü", "x" * 101, "../runs", "-x"])
def test_a_dataset_name_cant_leave_its_prefix_or_be_an_option(name: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.dataset="):
        DataConfig(dataset=name, seq_len=8)
    with pytest.raises(ValueError, match=r"^name="):
        check_name(name, key="name")


def test_impossible_numbers_name_their_key() -> None:
    with pytest.raises(ValueError, match=r"^data\.seq_len=0: must be at least 1"):
        DataConfig(seq_len=0)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=r"^data\.seed="):
            DataConfig(seq_len=8, seed=seed)


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DataConfig(seq_len=8).seq_len = 9  # type: ignore[misc]


def test_a_config_or_the_protocol_costs_neither_torch_nor_s3fs() -> None:
    code = (
        "import sys, data_pipeline.config, data_pipeline.store.protocol, data_pipeline.store.retry, data_pipeline.store.open\n"
        "import data_pipeline.order.samples, data_pipeline.order.sample_table, data_pipeline.dataset.manifest\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 's3fs', 'botocore', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

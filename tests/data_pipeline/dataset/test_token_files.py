"""Which files are meant by what people name."""

import os
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.dataset.token_files import find_token_files, in_words
from data_pipeline.errors import CorpusInvalid, FilesInvalid
from data_pipeline.store.protocol import InvalidKey
from tests.fakes.memory_store import MemoryStore

KEYS = ("b/part-1.npy", "b/part-0.npy", "b/part-0.csv.gz", "b/deep/part-2.npy", "b/deep/shard.bin", "b/README.md", "b/empty.npy", "c.npy")


class Roots(dict[str, MemoryStore]):
    """Roots that are opened when they are asked for: each is a part of one bucket."""

    def __init__(self, keys: tuple[str, ...] = KEYS) -> None:
        self.listed: list[str] = []
        self._keys = keys

    def __missing__(self, root: str) -> MemoryStore:
        store = MemoryStore(fault=lambda operation, key: self.listed.append(f"{operation} {key}"))
        prefix = root.removeprefix("s3://bucket").removeprefix("/")
        below = [(key, key.removeprefix(f"{prefix}/")) for key in self._keys if not prefix or key.startswith(f"{prefix}/")]
        store.objects = {key: b"" if "empty" in whole or whole.endswith("/") else whole.encode() for whole, key in below}
        return self.setdefault(root, store)


def named(*places: str, keys: tuple[str, ...] = KEYS) -> list[str]:
    return [url.removeprefix("s3://bucket/") for url in find_token_files(places, Roots(keys).__getitem__).files]


ALL = ["b/deep/part-2.npy", "b/deep/shard.bin", "b/part-0.npy", "b/part-1.npy"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket", [*ALL, "c.npy"]),
        ("s3://bucket/", [*ALL, "c.npy"]),
        ("s3://bucket/b", ALL),
        ("s3://bucket/b/", ALL),
        ("s3://bucket/c.npy", ["c.npy"]),
        ("s3://bucket/b/README.md", ["b/README.md"]),  # which then is told to be text
        ("s3://bucket/b/**.npy", ["b/deep/part-2.npy", "b/part-0.npy", "b/part-1.npy"]),
        ("s3://bucket/**/part-*.npy", ["b/deep/part-2.npy", "b/part-0.npy", "b/part-1.npy"]),
        ("s3://bucket/b/*.npy", ["b/part-0.npy", "b/part-1.npy"]),
        ("s3://bucket/b/part-*", ["b/part-0.npy", "b/part-1.npy"]),  # tables of documents are never meant
        ("s3://bucket/b/part-[!0].npy", ["b/part-1.npy"]),
        ("s3://bucket/b/part-?.npy", ["b/part-0.npy", "b/part-1.npy"]),
        ("s3://bucket/*/deep/shard.bin", ["b/deep/shard.bin"]),
    ],
)
def test_a_url_names_a_file_a_directory_or_a_glob(place: str, expected: list[str]) -> None:
    assert named(place) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (".", [*ALL, "c.npy"]),
        ("b", ALL),
        ("c.npy", ["c.npy"]),
        ("b/**.npy", ["b/deep/part-2.npy", "b/part-0.npy", "b/part-1.npy"]),
        ("b/part-*", ["b/part-0.npy", "b/part-1.npy"]),
        ("*/deep/*", ["b/deep/part-2.npy", "b/deep/shard.bin"]),
    ],
)
def test_a_path_names_the_same(place: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text("" if "empty" in key else key)
    monkeypatch.chdir(tmp_path)
    found = find_token_files([place], Roots().__getitem__).files
    assert [url.removeprefix(f"{tmp_path}/") for url in found] == expected
    assert all(f"{file.root}/{file.key}" == url for url, file in found.items())


def test_only_what_is_meant_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("b/part-0.npy", "b/deep/part-1.npy"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(key)
    for link in ("b/README.md", "b/gone", "b/part-0.csv.gz", "of-others.npy"):
        (tmp_path / link).symlink_to("nothing")
    os.mkfifo(tmp_path / "b/deep/pipe")
    monkeypatch.chdir(tmp_path)

    def found(place: str) -> list[str]:
        return [url.removeprefix(f"{tmp_path}/") for url in find_token_files([place], Roots().__getitem__).files]

    for place in ("b", "b/**.npy", "*/**/part-*"):
        assert found(place) == ["b/deep/part-1.npy", "b/part-0.npy"]
    other, readme, pipe, gone = "of-others.npy", "b/README.md", "b/deep/pipe", "b/gone"
    for place, refused in ((".", other), ("*.npy", other), ("b/**", readme), ("b/deep/*", pipe), ("b/g*", gone)):
        with pytest.raises(CorpusInvalid, match=rf"^{tmp_path}/{refused}: a (link that leads to nothing|pipe)"):
            found(place)


def test_a_link_that_is_meant_is_taken_though_what_it_leads_to_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("x")
    (tmp_path / "chosen-a.npy").symlink_to("a.npy")
    (tmp_path / "z.npy").symlink_to("a.npy")
    (found,) = find_token_files([str(tmp_path / "chosen-*")], Roots().__getitem__).files.values()
    assert found.key == "chosen-a.npy"


def test_a_name_with_the_characters_of_a_glob_is_a_name_where_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "part[0].npy").write_text("x")
    (tmp_path / "part0.npy").write_text("x")
    (found,) = find_token_files([str(tmp_path / "part[0].npy")], Roots().__getitem__).files.values()
    assert found.key == "part[0].npy"


def test_what_is_named_twice_is_taken_once_and_the_order_is_that_of_the_names() -> None:
    assert named("s3://bucket/c.npy", "s3://bucket/b/part-1.npy", "s3://bucket/b/*.npy") == ["c.npy", "b/part-1.npy", "b/part-0.npy"]


def test_what_is_left_out_is_counted() -> None:
    found = find_token_files(["s3://bucket/b"], Roots().__getitem__)
    assert found.left_out == Counter({".csv.gz": 1, ".md": 1, "empty": 1})
    assert in_words(found.left_out) == "1 .csv.gz, 1 .md, 1 empty"


def test_twelve_thousand_files_cost_one_listing() -> None:
    roots = Roots(tuple(f"b/{number // 100}/{number:05d}.npy" for number in range(12_000)))
    assert len(find_token_files(["s3://bucket/b/**.npy"], roots.__getitem__).files) == 12_000
    assert roots.listed == ["list "]
    roots.listed.clear()
    find_token_files(["s3://bucket/b/1*/*.npy"], roots.__getitem__)
    assert roots.listed == ["list 1"], "and no more of it than what the glob can match"


def test_markers_of_directories_that_some_tools_make_are_no_files() -> None:
    assert named("s3://bucket/**", keys=("b/", "b/x", "b/c/")) == ["b/x"]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("s3://bucket/nothing", "s3://bucket/nothing: no such file; give token files, a directory of them, or a glob in quotes"),
        ("s3://bucket/c", "s3://bucket/c: no such file"),  # c.npy is another
        ("s3://bucket/b/*.u16", "s3://bucket/b/*.u16: no such file"),
        ("s3://bucket/b/*.md*/x", "s3://bucket/b/*.md*/x: no such file"),
        ("s3://bucket/b/[z-a]", r"[z-a]: not a glob (bad character range z-a); use *"),
        ("s3://buck*", "s3://buck*: give a path, or s3://bucket/prefix with wildcards in the prefix only"),
        ("gs://bucket/b", "gs://bucket/b: give a path, or s3://bucket/prefix"),
        ("/no/such/path.npy", "/no/such/path.npy: no such file"),
        ("s3://bucket/b/empty.npy", "s3://bucket/b/empty.npy: no token files, but 1 empty; those of a directory are .npy and .bin"),
    ],
)
def test_what_names_no_tokens_is_one_line(place: str, line: str) -> None:
    with pytest.raises((FilesInvalid, CorpusInvalid)) as caught:
        named(place)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_key_that_no_store_of_ours_can_hold_is_one_line() -> None:
    with pytest.raises(InvalidKey, match=r"^object key 'deep//x': use non-empty parts"):
        named("s3://bucket/b/**", keys=("b/deep//x",))


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    from data_pipeline.config import StorageConfig
    from data_pipeline.store.open import open_beside

    with pytest.raises(FilesInvalid) as caught:
        find_token_files(["s3://ID:hidden@bucket/b"], open_beside(StorageConfig(root="/x")))
    assert str(caught.value) == "bucket/b: not an S3 location; give s3://bucket/prefix, and credentials by the environment only"

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.find import corpus_files


def put(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CorpusInvalid) as refused:
        corpus_files(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_links_to_files_and_directories_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/deep/b.txt")
    put(tmp_path / "other/c.txt")
    corpus = tmp_path / "corpus"
    put(corpus / "a.txt")
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (corpus / "c-by-link.txt").symlink_to(tmp_path / "other/c.txt")
    assert corpus_files(corpus) == [corpus / "a.txt", corpus / "c-by-link.txt", corpus / "linked/deep/b.txt"]
    (tmp_path / "corpus-by-link").symlink_to(corpus)
    assert len(corpus_files(tmp_path / "corpus-by-link")) == 3


def test_what_is_reached_twice_is_read_once_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "d/a.txt")
    (tmp_path / "d/loop").symlink_to(tmp_path)
    (tmp_path / "d/self").symlink_to(".")
    (tmp_path / "again").symlink_to("d")
    (tmp_path / "a-by-link.txt").symlink_to("d/a.txt")
    os.link(tmp_path / "d/a.txt", tmp_path / "d/hard.txt")
    assert corpus_files(tmp_path) == [tmp_path / "a-by-link.txt"]


def test_hidden_files_are_left_out_whatever_they_are(tmp_path: Path) -> None:
    put(tmp_path / "a.txt")
    put(tmp_path / "__pycache__/a.pyc")
    put(tmp_path / ".git/config")
    (tmp_path / ".#a.txt").symlink_to("editor@host.123")
    assert corpus_files(tmp_path) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("target", ["gone.txt", "b.txt"], ids=["dangling", "of itself"])
def test_a_link_that_leads_to_nothing_is_named(target: str, tmp_path: Path) -> None:
    put(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to(target)
    for path in (tmp_path, tmp_path / "b.txt"):
        assert refusal(path) == f"{tmp_path / 'b.txt'}: a link that leads to nothing which can be read; mend or remove it"


def test_pipes_sockets_and_devices_are_named_and_nothing_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for path in (tmp_path / "pipe.jsonl", tmp_path / "socket", Path("/dev/zero"), tmp_path):
            assert "a pipe, socket or device, not a file; write what it gives into a file" in refusal(path)


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from data_pipeline.sources.find import corpus_files
if os.geteuid() == 0:
    os.setuid(65534)
try:
    print(corpus_files(Path(sys.argv[1])))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("name", ["closed", "closed.txt"])
def test_directories_and_files_that_may_not_be_read_are_named(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to everybody else
        Path(directory).chmod(0o755)
        put(Path(directory, "a.txt"))
        closed = Path(directory, name)
        put(closed if name.endswith(".txt") else closed / "b.txt")
        closed.chmod(0o000)
        done = subprocess.run([sys.executable, "-c", READ_AS_NOBODY, directory], capture_output=True, text=True, check=True)
        closed.chmod(0o700)
    assert done.stdout.startswith(f"CorpusInvalid {closed}: can't be read (Permission denied)")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    for path in (Path("x" * 5000), Path("a\0b"), Path("nothing/here")):
        refusal(path)

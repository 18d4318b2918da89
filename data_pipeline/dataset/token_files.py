"""Which files people mean who name paths, directories, globs and s3:// URLs of tokens."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.dataset.shards import Elsewhere
from data_pipeline.errors import FilesInvalid
from data_pipeline.paths import expanded
from data_pipeline.sources.find import corpus_files
from data_pipeline.store.protocol import ObjectInfo, check_key

S3 = "s3://"
TOKEN_SUFFIXES = (".npy", ".bin")
"""Of token files in a directory; one that is named, or that a glob matches, may have any."""
METADATA_SUFFIX = ".csv.gz"
"""Of Dolma's tables of documents, which lie beside token files and have their names otherwise."""
_WILDCARD = re.compile(r"[*?\[]")
_WILD = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])")
_MEANING = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFile:
    """A file as its listing tells it."""

    root: str
    """`s3://bucket/prefix`, or an absolute directory."""
    key: str
    """Its place below the root."""
    size_bytes: int
    modified_at_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, in the order in which it was named; in each place sorted."""

    files: dict[str, TokenFile] = field(default_factory=dict)
    """By where they are."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many files were not taken for tokens, by what they are."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What a person named, and what is listed there, more or less."""

    root: str
    name: str
    """Of a file or a directory below the root, empty for the root itself; or a glob."""
    is_glob: bool
    infos: list[ObjectInfo]


def find_token_files(places: Sequence[str], elsewhere: Elsewhere) -> Found:
    """Every file that any of the places names, once. Raises FilesInvalid, CorpusInvalid, InvalidKey, or what the store raises."""
    found = Found()
    for named in places:
        place = _in_store(named, elsewhere) if "://" in named else _in_directory(named)
        chosen, left_out = _chosen(place)
        if not chosen and not left_out:
            raise FilesInvalid(f"{named}: no such file; give token files, a directory of them, or a glob in quotes")
        for info in chosen:
            file = TokenFile(root=place.root, key=check_key(info.key), size_bytes=info.size_bytes, modified_at_s=info.modified_at_s)
            found.files.setdefault(f"{place.root.rstrip('/')}/{info.key}", file)
        found.left_out.update(left_out)
    if not found.files:
        raise FilesInvalid(
            f"{' '.join(places)}: no token files, but {in_words(found.left_out)}; those of a directory are {' and '.join(TOKEN_SUFFIXES)}, "
            f"others are named by a glob in quotes"
        )
    return found


def in_words(left_out: Counter[str]) -> str:
    """Such as `3 .csv.gz, 1 empty`."""
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(left_out.items()))


def _in_store(url: str, elsewhere: Elsewhere) -> _Place:
    """With one listing."""
    bucket, _, path = url.removeprefix(S3).partition("/")
    root, name = _split(path.rstrip("/"))
    shown = url.rpartition("@")[2]
    if not url.startswith(S3) or _WILDCARD.search(bucket):
        raise FilesInvalid(f"{shown}: give a path, or s3://bucket/prefix with wildcards in the prefix only")
    root = f"{S3}{bucket}/{root}".rstrip("/")
    try:
        store = elsewhere(root)
    except ValueError as error:
        raise FilesInvalid(f"{shown}: not an S3 location; give s3://bucket/prefix, and credentials by the environment only") from error
    infos = [info for info in store.list(_before_wildcard(name)) if not info.key.endswith("/")]  # which some tools make for directories
    is_glob = _WILDCARD.search(name) is not None
    if name and not is_glob and all(info.key != name for info in infos):
        below = [replace(info, key=info.key.removeprefix(f"{name}/")) for info in infos if info.key.startswith(f"{name}/")]
        return _Place(f"{root}/{name}", "", False, below)
    return _Place(root, name, is_glob, infos)


def _in_directory(named: str) -> _Place:
    path = os.path.normpath(expanded(named))
    is_glob = _WILDCARD.search(path) is not None and not os.path.lexists(path)
    root, name = _split(path) if is_glob else (path, "") if os.path.isdir(path) else os.path.split(path)
    infos, meaning = [], _meaning(name, is_glob=is_glob)
    for file in corpus_files(Path(root) if is_glob else Path(path), lambda file: all(meaning(os.path.relpath(file, root)))):
        status = file.stat()
        infos.append(ObjectInfo(key=os.path.relpath(file, root), size_bytes=status.st_size, modified_at_s=status.st_mtime))
    return _Place(root, name, is_glob, infos)


def _split(path: str) -> tuple[str, str]:
    """The directory above the first wildcard, or above the last part, and the rest."""
    above, slash, _ = _before_wildcard(path).rpartition("/")
    return above or slash, path[len(above) + len(slash) :]


def _before_wildcard(path: str) -> str:
    found = _WILDCARD.search(path)
    return path[: found.start()] if found else path


def _chosen(place: _Place) -> tuple[list[ObjectInfo], Counter[str]]:
    """What is meant, and what was left out of it."""
    meaning = _meaning(place.name, is_glob=place.is_glob)
    chosen, left_out = [], Counter[str]()
    for info in place.infos:
        is_meant, is_tokens = meaning(info.key)
        if is_meant and is_tokens and info.size_bytes:
            chosen.append(info)
        elif is_meant:
            left_out["empty" if is_tokens else _kind_of(info.key)] += 1
    return chosen, left_out


def _meaning(name: str, *, is_glob: bool) -> Callable[[str], tuple[bool, bool]]:
    """Whether a key is meant, and whether it is called like tokens: a file itself, whatever a glob matches, or all below a directory."""
    if is_glob:
        pattern = _regex(name)
        return lambda key: (pattern.fullmatch(key) is not None, not key.endswith(METADATA_SUFFIX))
    if name:
        return lambda key: (key == name, key == name)
    return lambda key: (True, key.endswith(TOKEN_SUFFIXES))


def _kind_of(key: str) -> str:
    suffixes = Path(key).suffixes
    return "".join(suffixes[-2:] if suffixes[-1:] in ([".gz"], [".zst"]) else suffixes[-1:]) or "without a suffix"


def _regex(glob: str) -> re.Pattern[str]:
    words = [_MEANING.get(part) or (_class(part) if _WILD.fullmatch(part) else re.escape(part)) for part in _WILD.split(glob)]
    try:
        return re.compile("".join(words), re.DOTALL)
    except re.error as error:
        raise FilesInvalid(f"{glob}: not a glob ({error.msg}); use *, **, ? and [a-z]") from error


def _class(part: str) -> str:
    inner = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^{inner[1:]}]" if inner[0] in "!^" and len(inner) > 1 else f"[{inner}]"

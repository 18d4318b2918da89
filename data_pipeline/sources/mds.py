"""Shards that Mosaic's streaming wrote (MDS): one document per sample, in the column `text`.

A shard is, in little-endian uint32, the number of its samples and where each begins and the last ends; then its columns in JSON; then the
samples, one after another. A sample is the sizes of its columns that have no fixed one, in uint32, and then the columns' values.
Source: the format as `mosaicml-streaming` 0.13 writes it, version 2.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from struct import unpack, unpack_from
from typing import IO, Any

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_bytes, read_errors, stamp_of
from data_pipeline.sources.protocol import BEGINNING, ID_FIELD, TEXT_FIELD, Document, Place, Stamp, Texts, texts_in_chunks
from data_pipeline.sources.unpack import PACKING_SUFFIXES

INDEX = "index.json"
SUFFIX = ".mds"
VERSION = 2
_LARGEST_INDEX_BYTES = 2**30
_READ_BYTES = 2**20
_WHOLE = re.compile(r"(u?)int(8|16|32|64)?")
_READ_PACKED = ".zstd, .gz or .bz2"


@dataclass(frozen=True, slots=True)
class MdsShard:
    """The column `text` of every sample, and `id` if that is text or a whole number; the shard may be packed."""

    path: Path

    def chunks(self, start: Place = BEGINNING) -> Iterator[Texts]:
        return texts_in_chunks(self._samples(), start)

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def _samples(self) -> Iterator[tuple[Document, float]]:
        with open_bytes(self.path) as (file, share):
            (num_samples,) = unpack("<I", self._read(file, 4))
            offsets = unpack(f"<{num_samples + 1}I", self._read(file, 4 * (num_samples + 1)))
            columns = self._columns(self._read(file, offsets[0] - 4 * (num_samples + 2)))
            for number, (first, end) in enumerate(pairwise(offsets), start=1):
                values = columns.values(self._read(file, end - first))
                if values is None:
                    raise self._damaged(f"sample {number} is not as long as its columns")
                yield Document(text=values[TEXT_FIELD].decode(), number=number, id=columns.id_of(values)), share()
            if file.read(1):
                raise self._damaged("there is more behind its last sample")

    def _read(self, file: IO[bytes], size: int) -> bytes:
        """Piece by piece: what a damaged shard says of its size is not to be believed at once."""
        data = bytearray()
        while piece := file.read(max(0, min(size - len(data), _READ_BYTES))):
            data += piece
        if len(data) != size:
            raise self._damaged("it ends before its last sample")
        return bytes(data)

    def _columns(self, head: bytes) -> "_Columns":
        try:
            said = json.loads(head)
            version, form = said["version"], said["format"]
            columns = _Columns(*(tuple(said[f"column_{what}"]) for what in ("names", "encodings", "sizes")))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged("its columns are not told") from error
        if not columns.are_told:
            raise self._damaged("its columns are not told")
        if (form, version) != ("mds", VERSION):
            raise CorpusInvalid(f"{self.path}: {form} of version {version}; only MDS of version {VERSION} is read, write it again as that")
        if TEXT_FIELD not in columns.names:
            raise CorpusInvalid(f'{self.path}: no column "{TEXT_FIELD}" among {", ".join(columns.names)}; give that name to the documents')
        if (encoding := columns.encoding_of(TEXT_FIELD)) != "str":
            raise CorpusInvalid(f'{self.path}: the column "{TEXT_FIELD}" is {encoding}; only str is read, a document per sample')
        return columns

    def _damaged(self, what: str) -> CorpusInvalid:
        return CorpusInvalid(f"{self.path}: no MDS shard, or a damaged one ({what}); replace it, or keep it out of the corpus")


@dataclass(frozen=True, slots=True)
class _Columns:
    names: tuple[str, ...]
    encodings: tuple[str, ...]
    sizes: tuple[int | None, ...]
    """In bytes; None for one that says its size in each sample."""

    @property
    def are_told(self) -> bool:
        """Whether all of each is what it should be."""
        texts, sizes = (*self.names, *self.encodings), self.sizes
        whole = len(self.names) == len(self.encodings) == len(sizes)
        return whole and all(isinstance(text, str) for text in texts) and all(isinstance(size, int | None) for size in sizes)

    def encoding_of(self, name: str) -> str:
        return dict(zip(self.names, self.encodings, strict=True)).get(name, "")

    def values(self, sample: bytes) -> dict[str, bytes] | None:
        """Each column's bytes; None where they are not what the sample has."""
        place = 4 * self.sizes.count(None)
        if len(sample) < place:
            return None
        own_sizes, values = iter(unpack_from(f"<{place // 4}I", sample)), {}
        for name, size in zip(self.names, self.sizes, strict=True):
            end = place + (next(own_sizes) if size is None else size)
            values[name], place = sample[place:end], end
        return values if place == len(sample) else None

    def id_of(self, values: Mapping[str, bytes]) -> str:
        encoding = self.encoding_of(ID_FIELD)
        if whole := _WHOLE.fullmatch(encoding):
            return str(int.from_bytes(values[ID_FIELD], "little", signed=not whole[1]))
        return values[ID_FIELD].decode() if encoding in ("str", "str_int") else ""


def shards_among(files: Iterable[Path]) -> tuple[dict[Path, MdsShard], list[Path]]:
    """(the shards that indices among `files` name, the other files). Of a shard that is there packed and unpacked, one is taken.

    Raises CorpusInvalid for an index that names what is not there or is not read, and for a shard that no index names.
    """
    shards: dict[Path, MdsShard] = {}
    claimed: set[Path] = set()
    others = list(files)
    for index in sorted((file for file in others if file.name == INDEX), key=lambda file: len(file.parts)):
        if (entries := _entries(index)) is None:
            continue
        claimed.add(index)
        for entry in entries:
            names = _names(index, entry)
            claimed.update(names)
            path = _there(index, names)
            shards[path] = MdsShard(path)
    rest = [file for file in others if file not in claimed]
    if lost := [file for file in rest if SUFFIX in (suffix.lower() for suffix in file.suffixes[-2:])]:
        raise CorpusInvalid(f"{lost[0]}: an MDS shard that no {INDEX} names; give the directory with the one that does")
    return shards, rest


def _entries(index: Path) -> list[Any] | None:
    """The shards that an index names; None where it is no index of streaming's. Raises CorpusInvalid where it is of another kind."""
    with read_errors(index):
        if index.stat().st_size > _LARGEST_INDEX_BYTES:
            return None
        content = index.read_bytes()
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("shards"), list) or "version" not in said:
        return None
    if said["version"] != VERSION:
        raise CorpusInvalid(f"{index}: MDS of version {said['version']}; only version {VERSION} is read, write it again as that")
    return list(said["shards"])


def _names(index: Path, entry: Any) -> list[Path]:
    """What a shard may be there as: unpacked, packed."""
    try:
        if (form := entry["format"]) != "mds":
            raise CorpusInvalid(f"{index}: names shards of format {form}; give their directory without it, or write them as MDS")
        names = [Path(entry[kind]["basename"]) for kind in ("raw_data", "zip_data") if entry[kind]]
        if not names or any(name.is_absolute() or ".." in name.parts for name in names):
            raise KeyError("basename")
        return [index.parent / name for name in names]
    except (KeyError, TypeError) as error:
        raise CorpusInvalid(f"{index}: a shard in it is not told as MDS tells it; write it again, or keep it out of the corpus") from error


def _there(index: Path, names: list[Path]) -> Path:
    path = next((name for name in names if name.is_file()), None)
    if path is None:
        raise CorpusInvalid(f"{index}: names {names[0].name}, which is not there; fetch it, or write the index again")
    if path.suffix.lower() not in (SUFFIX, *PACKING_SUFFIXES):
        raise CorpusInvalid(f"{path}: packed in a way that is not read; unpack it, or write it as {_READ_PACKED}")
    return path

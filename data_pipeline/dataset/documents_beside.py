"""Dolma's tables of documents, which lie beside the token files that it makes: `part-00.csv.gz` beside `part-00.npy`.

Packed lines of `first token,the one behind the last,id,file,line`, in the order of the tokens.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from data_pipeline.dataset.documents import ShardDocument
from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.dataset.token_files import METADATA_SUFFIX
from data_pipeline.errors import DocumentsUnknown, ShardCorrupt
from data_pipeline.store.protocol import KeyMissing, ObjectStore

READ_BYTES = 2**20


def documents_beside(shards: ShardStore, shard: ShardRef, tokens: range) -> list[ShardDocument]:
    """The documents that have some of these tokens of a registered file, in order: its table is read up to them, a piece at a time.

    Raises DocumentsUnknown where there is no table, ShardCorrupt, or what the store raises.
    """
    store, key = shards.at(shard.root), str(PurePosixPath(shard.key).with_suffix(METADATA_SUFFIX))
    found: list[ShardDocument] = []
    try:
        for document in _documents(store, key):
            if document.start >= tokens.stop:
                break
            if document.end > tokens.start:
                found.append(document)
    except KeyMissing as error:
        raise DocumentsUnknown(f"{store.url(key)}: is missing, so which documents are in the file beside it is not known") from error
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
        reason = str(error).partition("\n")[0]
        raise ShardCorrupt(f"{store.url(key)}: is no table of documents as Dolma writes them ({reason}); restore or remove it") from error
    return found


def _documents(store: ObjectStore, key: str) -> Iterator[ShardDocument]:
    with io.BufferedReader(_Ranges(store, key), READ_BYTES) as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as text:
        for start, end, own, file, line in csv.reader(text):
            yield ShardDocument(file=file, number=int(line), id=own, start=int(start), end=int(end))


class _Ranges(io.RawIOBase):
    """An object as a file that is read from its beginning to its end."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key, self._position = store, key, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._store.get_range(self._key, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

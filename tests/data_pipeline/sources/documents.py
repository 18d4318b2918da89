"""Documents that the tests of all kinds of sources read."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable

import zstandard

DOCUMENTS = ["first\ndocument", "zweites Dokument: ß", "三"]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".zstd": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress
}  # fmt: skip


def json_lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": document}, ensure_ascii=False) + "\n" for document in documents).encode()

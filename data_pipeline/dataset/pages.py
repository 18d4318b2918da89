"""Pages of a shard, and their digests: what lets a reader check the part that it reads. Pure.

XXH3 of 64 bits, eight bytes for each page: it finds what disks and networks do to data, and costs next to nothing.
"""

from collections.abc import Iterator

import xxhash

PAGE_BYTES = 2**15
"""The last page of a shard may be shorter."""
DIGEST_BYTES = 8


def num_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)


def page_digests(data: bytes | memoryview) -> bytes:
    """The digests of the pages that `data` consists of, one after the other."""
    return b"".join(map(xxhash.xxh3_64_digest, _pages(data)))


def checksum(data: bytes | memoryview) -> str:
    """The digest of `data` as one page, in hex."""
    return xxhash.xxh3_64_hexdigest(data)


def first_wrong(data: bytes | memoryview, digests: bytes) -> int | None:
    """The first page of `data` whose digest is not the one in `digests`; None where all are."""
    if page_digests(data) == digests:
        return None
    for number, page in enumerate(_pages(data)):
        if xxhash.xxh3_64_digest(page) != digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            return number
    return None


def _pages(data: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[start : start + PAGE_BYTES] for start in range(0, len(view), PAGE_BYTES))

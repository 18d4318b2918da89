"""Pages of a shard, and their digests: what lets a reader check the part that it reads. Pure.

XXH3 of 64 bits, eight bytes for each page: it finds what disks and networks do to data, and costs next to nothing.
"""

import xxhash

PAGE_BYTES = 2**15
"""The last page of a shard may be shorter."""
DIGEST_BYTES = 8


def num_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)


def page_digests(data: bytes | memoryview) -> bytes:
    """The digests of the pages that `data` consists of, one after the other."""
    view = memoryview(data)
    return b"".join([xxhash.xxh3_64_digest(view[start : start + PAGE_BYTES]) for start in range(0, len(view), PAGE_BYTES)])


def checksum(data: bytes | memoryview) -> str:
    """The digest of `data` as one page, in hex."""
    return xxhash.xxh3_64_hexdigest(data)


def wrong_pages(data: bytes | memoryview, digests: bytes) -> list[int]:
    """The pages of `data` whose digest is not the one in `digests`, and those that it lacks."""
    found = page_digests(data)
    if found == digests:
        return []
    return [number for number in range(len(digests) // DIGEST_BYTES) if _digest_of(number, found) != _digest_of(number, digests)]


def _digest_of(page: int, digests: bytes) -> bytes:
    return digests[page * DIGEST_BYTES : (page + 1) * DIGEST_BYTES]

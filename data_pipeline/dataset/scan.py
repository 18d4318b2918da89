"""One pass over a file of tokens: its digests, and whether they are the tokens that they should be."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from data_pipeline.dataset.npy import NpyHeader, npy_header
from data_pipeline.dataset.pages import DIGEST_BYTES, PAGE_BYTES, num_pages, page_digests
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.token_files import TokenFile
from data_pipeline.dataset.tokens import HEAD_BYTES, ShardTokens, TokenCount, TokenForm, oddity_of
from data_pipeline.errors import FilesInvalid
from data_pipeline.store.protocol import KeyMissing, ObjectStore

READ_SIZE_BYTES = 8 * 2**20
FACTS_BYTES = 1024
"""More than what `to_bytes` writes behind the digests."""
_OTHERWISE = "or give another --dtype, --vocab-size or --tokenizer"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What one pass found."""

    offset_bytes: int
    """Where the tokens begin."""
    size_bytes: int
    """Of the tokens."""
    sha256: str
    """Of the tokens, in hex."""
    num_eos: int
    num_documents: int
    max_token: int

    def to_bytes(self, digests: bytes) -> bytes:
        """As they are kept, behind the digests of the file's pages."""
        return digests + b"\n" + json.dumps(asdict(self)).encode()


def facts_of(end: bytes, size_bytes: int) -> FileFacts | None:
    """What the end of an object of `size_bytes` tells, which `FileFacts.to_bytes` made; None for another one."""
    text = end.rpartition(b"\n")[2]
    try:
        facts = FileFacts(**json.loads(text))
    except (ValueError, TypeError):
        return None
    return facts if size_bytes == num_pages(facts.size_bytes) * DIGEST_BYTES + 1 + len(text) else None


def scan(file: TokenFile, store: ObjectStore, form: TokenForm, read: Callable[[int], None]) -> tuple[FileFacts, bytes]:
    """Reads all of a file, and tells `read` how many bytes each time. Returns what was found, and the digests of its pages.

    Raises FilesInvalid, or what the store raises.
    """
    url = store.url(file.key)
    chunk = memoryview(_read(file, store, 0, READ_SIZE_BYTES))
    position = begin = _begin_of_tokens(bytes(chunk[:HEAD_BYTES]), file, form, url)
    chunk = chunk[begin:]
    if oddity := oddity_of(bytes(chunk[:HEAD_BYTES]), form):
        raise FilesInvalid(f"{url}: {oddity}; {_OTHERWISE}")
    sha256, digests, tokens = hashlib.sha256(), bytearray(), ShardTokens(form=form, count=TokenCount())
    read(begin)
    while len(chunk):
        if position + len(chunk) < file.size_bytes:
            chunk = chunk[: len(chunk) // PAGE_BYTES * PAGE_BYTES]
        sha256.update(chunk)
        digests += page_digests(chunk)
        tokens.add(chunk)
        if tokens.num_beyond:
            raise FilesInvalid(f"{url}: {tokens.end()}; {_OTHERWISE}")
        position += len(chunk)
        read(len(chunk))
        chunk = memoryview(_read(file, store, position, READ_SIZE_BYTES))
    tokens.end()
    count = tokens.count
    facts = FileFacts(
        offset_bytes=begin,
        size_bytes=file.size_bytes - begin,
        sha256=sha256.hexdigest(),
        num_eos=count.num_eos,
        num_documents=count.num_documents,
        max_token=count.max_token,
    )
    return facts, bytes(digests)


def dtype_of_header(file: TokenFile, store: ObjectStore) -> str:
    """The dtype that an .npy file says it has; "" for a file without a header. Raises FilesInvalid."""
    header = _header_of(_read(file, store, 0, HEAD_BYTES), store.url(file.key))
    return header.dtype if header else ""


def changed(url: str) -> FilesInvalid:
    """What to raise for a file that is not what it was when it was listed."""
    return FilesInvalid(f"{url}: changed while it was read; register it when nobody writes it any more")


def _header_of(head: bytes, url: str) -> NpyHeader | None:
    try:
        return npy_header(head)
    except ValueError as error:
        raise FilesInvalid(f"{url}: {error}") from error


def _begin_of_tokens(head: bytes, file: TokenFile, form: TokenForm, url: str) -> int:
    """Where the tokens begin in a file whose size is right for them."""
    width, header = file_dtype(form.dtype).itemsize, _header_of(head, url)
    if header is None:
        if file.size_bytes % width:
            kind = oddity_of(head, form)  # says more of what is no file of tokens
            size = f"has {file.size_bytes:,} bytes, which are no whole tokens of {form.dtype}: it is cut off, or something else"
            raise FilesInvalid(f"{url}: {kind or size}; {_OTHERWISE}")
        return 0
    if header.dtype != form.dtype:
        raise FilesInvalid(
            f"{url}: is an .npy file of {header.dtype}, and the dataset is to be of {form.dtype}; "
            f"give --dtype {header.dtype}, or register it apart"
        )
    if file.size_bytes != (expected := header.offset_bytes + header.num_tokens * width):
        raise FilesInvalid(f"{url}: has {file.size_bytes:,} bytes, its .npy header says {expected:,}; write it again with numpy.save")
    return header.offset_bytes


def _read(file: TokenFile, store: ObjectStore, position: int, length: int) -> bytes:
    wanted = min(length, file.size_bytes - position)
    if not wanted:
        return b""
    try:
        data = store.get_range(file.key, position, wanted)
    except KeyMissing as error:
        raise changed(store.url(file.key)) from error
    if len(data) != wanted:
        raise changed(store.url(file.key))
    return data

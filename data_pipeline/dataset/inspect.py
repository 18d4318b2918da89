"""Looks into a dataset for a person: `braid data inspect`."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer

from data_pipeline.dataset.documents import check_table
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, load_manifest, manifest_key
from data_pipeline.dataset.packing import load_packing, packed_lengths, problem_of_table
from data_pipeline.dataset.packing import remedy as pack_again
from data_pipeline.dataset.pages import DIGEST_BYTES, num_pages, page_digests
from data_pipeline.dataset.progress import Progress, unwatched
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import Elsewhere, ShardStore, nowhere, remedy
from data_pipeline.dataset.tokenizer import tokenizer_from_json, vocab_size_of
from data_pipeline.dataset.tokens import HEAD_BYTES, ShardTokens, TokenCount, oddity_of, whole_tokens
from data_pipeline.errors import DataError, PackingMissing, ShardCorrupt, ShardMissing
from data_pipeline.store.protocol import KeyMissing, ObjectStore

NUM_SHOWN_TOKENS = 64
_READ_SIZE_BYTES = 16 * 2**20
_NUM_LOOKED_AT = 4
_REBUILD = "rebuild the dataset with `braid data build`"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What was found in a dataset."""

    manifest: DatasetManifest
    first_text: str
    """The first tokens of the first shard, decoded; empty without a tokenizer, or where they can't be read."""
    problems: tuple[str, ...]
    """One line for each; empty where every shard is as the manifest says."""
    warnings: tuple[str, ...] = ()
    """What is hardly meant, one line each."""
    first_tokens: tuple[int, ...] = ()
    """The same as numbers."""
    tokens: TokenCount | None = None
    """What the shards hold; None where they were not read."""
    packed: tuple[int, ...] = ()
    """The lengths of packed rows whose tables were read."""


def inspect_dataset(*, store: ObjectStore, name: str, elsewhere: Elsewhere = nowhere, reading: Progress | None = None) -> DatasetReport:
    """Checks the size of every shard, and with `reading` all of them: digests, those of pages too, every token, tables of documents and of
    packed rows.

    Raises DatasetMissing, ManifestInvalid, or what the store raises.
    """
    manifest, shards = load_manifest(store, name), ShardStore(store, elsewhere)
    sizes = shards.sizes(manifest.shards)
    count, page = TokenCount(), 0
    problems: list[str] = [] if manifest.num_tokens else [f"{store.url(manifest_key(name))}: its shards hold no tokens; {_REBUILD}"]
    for number, ref in enumerate(manifest.shards, start=1):
        if reading:
            reading(number, len(manifest.shards))
        problem = _problem_of_size(ref, sizes.get((ref.root, ref.key)), shards)
        if reading and not problem:
            problem = _problem_of_content(ref, page, manifest, shards, count)
        page += num_pages(ref.size_bytes)
        problems += filter(None, [problem])
    packed = packed_lengths(store, name) if reading else []
    problems += [told for seq_len in packed for told in _problems_of_packing(manifest, seq_len, store, reading or unwatched)]
    first_tokens, first_text = [], ""
    try:
        first_tokens = _first_tokens(manifest, shards)
        if manifest.tokenizer_key:
            tokenizer = tokenizer_from_json(store.get(manifest.tokenizer_key), where=store.url(manifest.tokenizer_key))
            problems += _problems_of_tokenizer(manifest, count, tokenizer)
            first_text = str(tokenizer.decode(first_tokens, skip_special_tokens=False))
    except ShardMissing:  # which was told by its size
        pass
    except (KeyMissing, DataError) as error:
        problems.append(str(error))
    return DatasetReport(
        manifest=manifest,
        first_text=first_text,
        first_tokens=tuple(first_tokens),
        problems=tuple(dict.fromkeys(problems)),
        warnings=tuple(warnings_of(manifest, count)),
        tokens=count if reading else None,
        packed=tuple(packed),
    )


def lacking_objects(manifest: DatasetManifest, store: ObjectStore, elsewhere: Elsewhere = nowhere) -> list[str]:
    """The shards that are missing or of another size, as one listing of each root tells, and digests of pages that are missing."""
    shards = ShardStore(store, elsewhere)
    sizes = shards.sizes(manifest.shards)
    found = [told for ref in manifest.shards if (told := _problem_of_size(ref, sizes.get((ref.root, ref.key)), shards))]
    return found + _lacking_digests(manifest, store)


def _lacking_digests(manifest: DatasetManifest, store: ObjectStore) -> list[str]:
    """Those of pages, by one listing."""
    wanted: dict[str, ShardRef] = {key: ref for ref in manifest.shards if (key := _pages_key(ref, manifest))}
    if not wanted:
        return []
    there = {info.key for info in store.list(os.path.commonprefix(list(wanted)))}  # noqa: RUF071 — the beginning of a string
    return [f"{store.url(key)}: is missing; {_remedy_of_digests(ref)}" for key, ref in wanted.items() if key not in there]


def _pages_key(ref: ShardRef, manifest: DatasetManifest) -> str:
    """The object that has the digests of a shard's pages; "" for a dataset of an earlier version."""
    return manifest.pages.key if manifest.pages is not None else ref.pages_key


def _remedy_of_digests(ref: ShardRef) -> str:
    return f"restore this object, or {'register the files again under another name' if ref.pages_key else _REBUILD}"


def odd_beginnings(manifest: DatasetManifest, store: ObjectStore, elsewhere: Elsewhere = nowhere) -> list[str]:
    """What speaks against the first shards being tokens: a look that costs next to nothing. Shards that are missing are passed over."""
    found, shards = [], ShardStore(store, elsewhere)
    for ref in manifest.shards[:_NUM_LOOKED_AT]:
        try:
            head = shards.read(ref, 0, HEAD_BYTES)
        except ShardMissing:
            continue
        if problem := _problem_of_head(ref, head, manifest, shards):
            found.append(problem)
    return found


def _problem_of_size(ref: ShardRef, found: int | None, shards: ShardStore) -> str:
    """Where the shard's file has `found` bytes, or is not there."""
    expected = ref.offset_bytes + ref.size_bytes
    if found is None:
        return f"{shards.url(ref)}: is missing; {remedy(ref)}"
    return f"{shards.url(ref)}: has {found} bytes, the manifest says {expected}; {remedy(ref)}" if found != expected else ""


def _problem_of_content(ref: ShardRef, first_page: int, manifest: DatasetManifest, shards: ShardStore, count: TokenCount) -> str:
    """Reads a shard and what lies beside it; its tokens are added to `count`."""
    num_eos = count.num_eos
    digests, problem = _problem_of_tokens(ref, manifest, shards, count)
    problem = problem or _problem_of_pages(ref, first_page, digests, manifest, shards)
    return problem or _problem_of_documents(ref, shards.store, count.num_eos - num_eos)


def _problem_of_tokens(ref: ShardRef, manifest: DatasetManifest, shards: ShardStore, count: TokenCount) -> tuple[bytes, str]:
    """Reads all tokens of a shard, and adds them to `count`. Gives the digests of its pages, too."""
    url, pages = shards.url(ref), bytearray()
    digest, tokens, oddity = hashlib.sha256(), ShardTokens(form=manifest, count=count), ""
    for start in range(0, ref.size_bytes, _READ_SIZE_BYTES):
        chunk = shards.read(ref, start, _READ_SIZE_BYTES)
        oddity = oddity or ("" if start else oddity_of(chunk[:HEAD_BYTES], manifest))
        digest.update(chunk)
        pages += page_digests(chunk)
        tokens.add(chunk)
    beyond = tokens.end()
    if digest.hexdigest() != ref.sha256:
        return bytes(pages), f"{url}: its SHA-256 is not the manifest's; {remedy(ref)}"
    return bytes(pages), _odd(ref, shards, oddity or beyond)


def _problem_of_pages(ref: ShardRef, first_page: int, digests: bytes, manifest: DatasetManifest, shards: ShardStore) -> str:
    """Whether a shard, whose tokens are as they should be, has these digests of its pages where readers look for them."""
    if not digests or not (key := _pages_key(ref, manifest)):
        return ""
    url = shards.store.url(key)
    try:
        found = shards.store.get_range(key, 0 if manifest.pages is None else first_page * DIGEST_BYTES, len(digests))
    except KeyMissing:
        return f"{url}: is missing; {_remedy_of_digests(ref)}"
    return "" if found == digests else f"{url}: has not the digests of {shards.url(ref)}; {_remedy_of_digests(ref)}"


def _problem_of_documents(ref: ShardRef, store: ObjectStore, num_eos: int) -> str:
    """Of a shard whose tokens are as they should be."""
    if ref.documents is None:
        return ""
    try:
        check_table(store, ref, num_eos=num_eos)
    except ShardCorrupt as error:
        return str(error)
    return ""


def _problems_of_packing(manifest: DatasetManifest, seq_len: int, store: ObjectStore, reading: Progress) -> Iterable[str]:
    """Reads what `braid data pack` has made for rows of this length."""
    try:
        packing = load_packing(store, manifest, seq_len)
    except PackingMissing as error:
        yield str(error)
        return
    for number, shard in enumerate(packing.shards, start=1):
        reading(number, len(packing.shards))
        if problem := problem_of_table(store, shard, packing.window_rows):
            yield f"{problem}; pack the dataset again with {pack_again(manifest.name, seq_len)}"


def _problem_of_head(ref: ShardRef, head: bytes, manifest: DatasetManifest, shards: ShardStore) -> str:
    tokens = ShardTokens(form=manifest, count=TokenCount())
    tokens.add(head)
    return _odd(ref, shards, oddity_of(head, manifest) or tokens.end())


def _odd(ref: ShardRef, shards: ShardStore, oddity: str) -> str:
    again = "register it again with `braid data register`" if ref.pages_key else _REBUILD
    return f"{shards.url(ref)}: {oddity}; or {again}" if oddity else ""


def _problems_of_tokenizer(manifest: DatasetManifest, count: TokenCount, tokenizer: Tokenizer) -> Iterable[str]:
    """Tokens that have no text."""
    size = vocab_size_of(tokenizer)
    if manifest.eos_id >= size:
        yield f"eos_id={manifest.eos_id}: the dataset's tokenizer has {size} tokens; fix the manifest, or {_REBUILD}"
    if size <= count.max_token < manifest.vocab_size:
        yield f"token {count.max_token} is in the shards, and the dataset's tokenizer has {size} tokens: it is another one; {_REBUILD}"


def warnings_of(manifest: DatasetManifest, count: TokenCount) -> Iterable[str]:
    """What is hardly meant, of a dataset whose tokens were counted."""
    digests = [ref.sha256 for ref in manifest.shards if ref.num_tokens]
    if repeated := len(digests) - len(set(digests)):
        yield f"{repeated} of {len(digests)} shards repeat another one: their tokens come twice in each epoch"
    if count.num_tokens and not count.num_eos:
        yield f"eos ({manifest.eos_id}) never occurs: no document ends; is eos_id right?"
    if count.eos_share > 0.5:
        yield f"{100 * count.eos_share:.3g} % of the tokens are eos ({manifest.eos_id}): padding, or another dtype?"


def _first_tokens(manifest: DatasetManifest, shards: ShardStore) -> list[int]:
    if not manifest.shards:
        return []
    data = shards.read(manifest.shards[0], 0, NUM_SHOWN_TOKENS * file_dtype(manifest.dtype).itemsize)
    return [int(token) for token in whole_tokens(data, manifest.dtype)]

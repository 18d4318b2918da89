"""Looks into a dataset for a person: `braid data inspect`."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, load_manifest, manifest_key
from data_pipeline.dataset.progress import Progress
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.tokenizer import tokenizer_from_json, vocab_size_of
from data_pipeline.dataset.tokens import HEAD_BYTES, ShardTokens, TokenCount, oddity_of, whole_tokens
from data_pipeline.errors import DataError
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
    """The first tokens of the first shard, decoded."""
    problems: tuple[str, ...]
    """One line for each; empty where every shard is as the manifest says."""
    warnings: tuple[str, ...] = ()
    """What is hardly meant, one line each."""
    tokens: TokenCount | None = None
    """What the shards hold; None where they were not read."""


def inspect_dataset(*, store: ObjectStore, name: str, reading: Progress | None = None) -> DatasetReport:
    """Checks the size and the beginning of every shard, and with `reading` all of them: their digests, and every token.

    Raises DatasetMissing, ManifestInvalid, or what the store raises.
    """
    manifest = load_manifest(store, name)
    sizes = _sizes_beside(manifest, store)
    count = TokenCount()
    problems: list[str] = [] if manifest.num_tokens else [f"{store.url(manifest_key(name))}: its shards hold no tokens; {_REBUILD}"]
    for number, ref in enumerate(manifest.shards, start=1):
        if reading:
            reading(number, len(manifest.shards))
        problems += filter(None, [_problem_of(ref, sizes, manifest, store, count if reading else None)])
    first_text = ""
    try:
        tokenizer = tokenizer_from_json(store.get(manifest.tokenizer_key), where=store.url(manifest.tokenizer_key))
        problems += _problems_of_tokenizer(manifest, count, tokenizer)
        first_text = _first_text(manifest, store, tokenizer)
    except (KeyMissing, DataError) as error:
        problems.append(str(error))
    return DatasetReport(
        manifest=manifest,
        first_text=first_text,
        problems=tuple(dict.fromkeys(problems)),
        warnings=tuple(_warnings_of(manifest, count)),
        tokens=count if reading else None,
    )


def lacking_objects(manifest: DatasetManifest, store: ObjectStore) -> list[str]:
    """The shards that are missing or of another size, and digests of pages that are missing, as one listing tells."""
    sizes = _sizes_beside(manifest, store)
    found = [problem for ref in manifest.shards if (problem := _problem_of_size(ref, sizes, store))]
    if manifest.pages is not None and manifest.pages.key not in sizes:
        found.append(f"{store.url(manifest.pages.key)}: is missing; {_REBUILD}")
    return found


def odd_beginnings(manifest: DatasetManifest, store: ObjectStore) -> list[str]:
    """What speaks against the first shards being tokens: a look that costs next to nothing. Shards that are missing are passed over."""
    found = []
    for ref in manifest.shards[:_NUM_LOOKED_AT]:
        try:
            head = store.get_range(ref.key, 0, min(HEAD_BYTES, ref.size_bytes))
        except KeyMissing:
            continue
        if problem := _problem_of_head(ref, head, manifest, store):
            found.append(problem)
    return found


def _sizes_beside(manifest: DatasetManifest, store: ObjectStore) -> dict[str, int]:
    """Size in bytes, by key, of every object in the dataset's directories: one listing for each that is in no other one."""
    keys = [ref.key for ref in manifest.shards] + ([manifest.pages.key] if manifest.pages is not None else [])
    directories: list[str] = []
    for directory in sorted({"".join(key.rpartition("/")[:2]) for key in keys}):
        if not directories or not directory.startswith(directories[-1]):
            directories.append(directory)
    return {info.key: info.size_bytes for directory in directories for info in store.list(directory)}


def _problem_of(ref: ShardRef, sizes: Mapping[str, int], manifest: DatasetManifest, store: ObjectStore, count: TokenCount | None) -> str:
    """What is wrong with a shard; its tokens are read, and added to `count`, where there is one."""
    url = store.url(ref.key)
    problem = _problem_of_size(ref, sizes, store)
    if problem or count is None:
        return problem
    digest, tokens, oddity = hashlib.sha256(), ShardTokens(manifest=manifest, count=count), ""
    for start in range(0, ref.size_bytes, _READ_SIZE_BYTES):
        chunk = store.get_range(ref.key, start, _READ_SIZE_BYTES)
        oddity = oddity or ("" if start else oddity_of(chunk[:HEAD_BYTES], manifest))
        digest.update(chunk)
        tokens.add(chunk)
    beyond = tokens.end()
    if digest.hexdigest() != ref.sha256:
        return f"{url}: its SHA-256 is not the manifest's; {_REBUILD}"
    return f"{url}: {oddity or beyond}; or {_REBUILD}" if oddity or beyond else ""


def _problem_of_size(ref: ShardRef, sizes: Mapping[str, int], store: ObjectStore) -> str:
    if ref.key not in sizes:
        return f"{store.url(ref.key)}: is missing; {_REBUILD}"
    if sizes[ref.key] != ref.size_bytes:
        return f"{store.url(ref.key)}: has {sizes[ref.key]} bytes, the manifest says {ref.size_bytes}; {_REBUILD}"
    return ""


def _problem_of_head(ref: ShardRef, head: bytes, manifest: DatasetManifest, store: ObjectStore) -> str:
    tokens = ShardTokens(manifest=manifest, count=TokenCount())
    tokens.add(head)
    oddity = oddity_of(head, manifest) or tokens.end()
    return f"{store.url(ref.key)}: {oddity}; or {_REBUILD}" if oddity else ""


def _problems_of_tokenizer(manifest: DatasetManifest, count: TokenCount, tokenizer: Tokenizer) -> Iterable[str]:
    """Tokens that have no text."""
    size = vocab_size_of(tokenizer)
    if manifest.eos_id >= size:
        yield f"eos_id={manifest.eos_id}: the dataset's tokenizer has {size} tokens; fix the manifest, or {_REBUILD}"
    if size <= count.max_token < manifest.vocab_size:
        yield f"token {count.max_token} is in the shards, and the dataset's tokenizer has {size} tokens: it is another one; {_REBUILD}"


def _warnings_of(manifest: DatasetManifest, count: TokenCount) -> Iterable[str]:
    digests = [ref.sha256 for ref in manifest.shards if ref.num_tokens]
    if repeated := len(digests) - len(set(digests)):
        yield f"{repeated} of {len(digests)} shards repeat another one: their tokens come twice in each epoch"
    if count.num_tokens and not count.num_eos:
        yield f"eos ({manifest.eos_id}) never occurs: no document ends; is eos_id right?"
    if count.eos_share > 0.5:
        yield f"{100 * count.eos_share:.3g} % of the tokens are eos ({manifest.eos_id}): padding, or another dtype?"


def _first_text(manifest: DatasetManifest, store: ObjectStore, tokenizer: Tokenizer) -> str:
    if not manifest.shards:
        return ""
    data = store.get_range(manifest.shards[0].key, 0, NUM_SHOWN_TOKENS * file_dtype(manifest.dtype).itemsize)
    return str(tokenizer.decode(whole_tokens(data, manifest.dtype).tolist(), skip_special_tokens=False))

"""Files of tokens that others made → a manifest: they are read once, checked, and stay where they are.

What is found in a file is kept on the store as soon as it is read, with the digests of its pages, under a name that says which file it was,
of which size and age, and what its tokens were taken for. So a registration that was killed goes on, and readers find the digests there.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from threading import Lock

from data_pipeline.dataset.build import create_manifest, put_tokenizer, refuse_existing
from data_pipeline.dataset.manifest import BYTES_PER_TOKEN, DatasetManifest, ShardRef, dataset_prefix
from data_pipeline.dataset.progress import Progress
from data_pipeline.dataset.scan import FACTS_BYTES, FileFacts, changed, dtype_of_header, facts_of, scan
from data_pipeline.dataset.shard_format import smallest_dtype
from data_pipeline.dataset.shards import Elsewhere
from data_pipeline.dataset.token_files import TokenFile, find_token_files
from data_pipeline.dataset.tokens import TokenCount
from data_pipeline.errors import FilesInvalid
from data_pipeline.store.protocol import ObjectStore

NUM_FILES = 8
"""Files that are read at a time."""
_KEPT = re.compile(r".*/[0-9a-f]{32}\.bin")
"""What was found in a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What the tokens are, as the one says who registers them."""

    size: int
    """X: every token is smaller."""
    eos_id: int
    tokenizer_file: bytes = b""
    """A Hugging Face tokenizer.json; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """What came of it."""

    manifest: DatasetManifest
    tokens: TokenCount
    left_out: Counter[str]
    """How many files were not taken, by what they are."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How all files are read."""

    dtype: str
    vocab_size: int
    eos_id: int


def register_dataset(
    *,
    store: ObjectStore,
    elsewhere: Elsewhere,
    name: str,
    places: Sequence[str],
    vocabulary: Vocabulary,
    dtype: str = "",
    progress: Progress,
) -> Registered:
    """Makes a dataset of the files that `places` name: paths, directories, globs, s3:// URLs, which `elsewhere` opens.

    `dtype` is that of the tokens; empty: what the first file's .npy header says, or the smallest that the vocabulary has room in.
    `progress` is told bytes. Raises DatasetExists, FilesInvalid, CorpusInvalid, or what stores raise.
    """
    refuse_existing(store, name)
    found = find_token_files(places, elsewhere)
    files = list(found.files.values())
    form = _form_of(vocabulary, dtype or dtype_of_header(files[0], elsewhere(files[0].root)))
    pass_ = _Pass(store=store, elsewhere=elsewhere, name=name, form=form, progress=progress, total=sum(file.size_bytes for file in files))
    scanned = pass_.over(files)
    then = find_token_files(places, elsewhere).files
    for url, file in found.files.items():
        if then.get(url) != file:
            raise changed(url)
    shards = [_shard(file, facts, pass_.key_of(file), form) for file, facts in zip(files, scanned, strict=True) if facts.size_bytes]
    if not shards:
        raise FilesInvalid(f"{' '.join(places)}: hold no tokens; give other files")
    manifest = DatasetManifest(
        name=name,
        dtype=form.dtype,
        eos_id=form.eos_id,
        vocab_size=form.vocab_size,
        tokenizer_key=put_tokenizer(store, name, vocabulary.tokenizer_file) if vocabulary.tokenizer_file else "",
        shards=tuple(shards),
    )
    empty = Counter(empty=len(scanned) - len(shards))
    made = create_manifest(store, manifest)
    pass_.remove_others({shard.pages_key for shard in shards})
    return Registered(manifest=made, tokens=_sum(scanned, form), left_out=found.left_out + empty)


def _form_of(vocabulary: Vocabulary, dtype: str) -> _Form:
    """Raises FilesInvalid where the dtype has no room for the vocabulary."""
    form = _Form(dtype or smallest_dtype(vocabulary.size), vocabulary.size, vocabulary.eos_id)
    if form.vocab_size > (most := 2 ** (8 * BYTES_PER_TOKEN[form.dtype])):
        raise FilesInvalid(
            f"{form.dtype}: has room for {most:,} tokens, and the vocabulary {form.vocab_size:,}; give another --dtype or vocabulary"
        )
    return form


def _shard(file: TokenFile, facts: FileFacts, pages_key: str, form: _Form) -> ShardRef:
    return ShardRef(
        key=file.key,
        num_tokens=facts.size_bytes // BYTES_PER_TOKEN[form.dtype],
        size_bytes=facts.size_bytes,
        sha256=facts.sha256,
        root=file.root,
        offset_bytes=facts.offset_bytes,
        pages_key=pages_key,
    )


def _sum(scanned: Sequence[FileFacts], form: _Form) -> TokenCount:
    return TokenCount(
        num_tokens=sum(facts.size_bytes for facts in scanned) // BYTES_PER_TOKEN[form.dtype],
        num_eos=sum(facts.num_eos for facts in scanned),
        num_documents=sum(facts.num_documents for facts in scanned),
        max_token=max(facts.max_token for facts in scanned),
    )


class _Stopped(Exception):
    """Another file's trouble ended the pass."""


@dataclass(kw_only=True, slots=True)
class _Pass:
    """Reads files, several at a time; what was read before is not read again."""

    store: ObjectStore
    elsewhere: Elsewhere
    name: str
    form: _Form
    progress: Progress
    total: int
    """Bytes of all files."""
    _done: int = 0
    _is_over: bool = False
    _lock: Lock = field(default_factory=Lock)

    def over(self, files: Sequence[TokenFile]) -> list[FileFacts]:
        """What is in each file. Raises what is wrong with the first one of those where something is."""
        kept = {info.key: info.size_bytes for info in self.store.list(f"{dataset_prefix(self.name)}files/")}
        executor = ThreadPoolExecutor(NUM_FILES, thread_name_prefix="register")
        try:
            pending = [executor.submit(self._facts, file, kept) for file in files]
            wait(pending, return_when=FIRST_EXCEPTION)
            return [facts.result() for facts in _wrong_first(pending)]
        finally:
            self._is_over = True
            executor.shutdown(cancel_futures=True)

    def remove_others(self, made: Set[str]) -> None:
        """What was kept of files that are not in the dataset: earlier registrations that came to no end saw them, or saw them otherwise."""
        keys = [info.key for info in self.store.list(f"{dataset_prefix(self.name)}files/")]
        with ThreadPoolExecutor(NUM_FILES) as pool:
            list(pool.map(self.store.delete, [key for key in keys if _KEPT.fullmatch(key) and key not in made]))

    def key_of(self, file: TokenFile) -> str:
        """Where it is kept what was found in a file."""
        identity = json.dumps([asdict(file), asdict(self.form)]).encode()
        return f"{dataset_prefix(self.name)}files/{hashlib.sha256(identity).hexdigest()[:32]}.bin"

    def _facts(self, file: TokenFile, kept: dict[str, int]) -> FileFacts:
        key = self.key_of(file)
        if size := kept.get(key):
            start = max(0, size - FACTS_BYTES)
            if facts := facts_of(self.store.get_range(key, start, FACTS_BYTES), size):
                self._advance(file.size_bytes)
                return facts
        facts, digests = scan(file, self.elsewhere(file.root), self.form, self._advance)
        self.store.put(key, facts.to_bytes(digests))
        return facts

    def _advance(self, num_bytes: int) -> None:
        if self._is_over:
            raise _Stopped
        with self._lock:
            self._done += num_bytes
            self.progress(self._done, self.total)


def _wrong_first(pending: Sequence[Future[FileFacts]]) -> Sequence[Future[FileFacts]]:
    """All, or the first of those that failed."""
    return [facts for facts in pending if facts.done() and facts.exception()][:1] or pending

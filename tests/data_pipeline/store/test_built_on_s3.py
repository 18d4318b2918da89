"""A dataset is built on S3, where shards are sent beside each other."""

from functools import partial

from data_pipeline.dataset.documents import documents_in
from data_pipeline.dataset.processes import encode_in_processes
from data_pipeline.dataset.tokenizer import train_tokenizer
from data_pipeline.store.s3 import S3Store
from tests.data_pipeline.dataset.built import DOCUMENTS, build
from tests.fakes.memory_store import MemoryStore


def test_a_dataset_on_s3_is_the_same_as_anywhere(s3_store: S3Store) -> None:
    tokenizer, anywhere = train_tokenizer(DOCUMENTS, vocab_size=300), MemoryStore()
    manifest = build(anywhere, tokenizer)
    assert build(s3_store, tokenizer, encode=partial(encode_in_processes, num_workers=1)) == manifest
    assert {info.key: s3_store.get(info.key) for info in s3_store.list("")} == anywhere.objects
    assert documents_in(s3_store, manifest.shards[0], range(5))[0].number == 1

from pathlib import Path

from data_pipeline.sources.open import open_corpus
from data_pipeline.sources.stdlib import stdlib_corpus


def test_the_standard_library_is_a_corpus_everywhere() -> None:
    corpus = stdlib_corpus(max_bytes=200_000)
    documents = list(corpus)
    files = [Path(file.name) for file in corpus.files]
    assert 50_000 < sum(len(document.encode()) for document in documents) <= 200_000
    assert not any({"test", "tests", "site-packages"} & set(file.parts) for file in files)
    assert files == sorted(files)


def test_without_a_path_the_standard_library_is_read() -> None:
    assert open_corpus(None) == stdlib_corpus()

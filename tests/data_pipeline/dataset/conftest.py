import pytest
from tokenizers import Tokenizer

from data_pipeline.dataset.tokenizer import train_tokenizer
from tests.data_pipeline.dataset.built import DOCUMENTS


@pytest.fixture(scope="package")
def tokenizer() -> Tokenizer:
    return train_tokenizer(DOCUMENTS, vocab_size=300)

"""Our samples of a token file are OLMo-core's instances of it; what it made of these files is stored beside (`make.py`)."""

from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from data_pipeline.config import DataConfig
from data_pipeline.order.samples import SampleRef
from data_pipeline.read.batch import build_batch
from data_pipeline.read.loader import build_loader
from tests.data_pipeline.datasets import put_dataset
from tests.data_pipeline.olmo_core.make import EOS_ID, MADE, SEQ_LEN, VOCAB_SIZE
from tests.fakes.memory_store import MemoryStore


def test_samples_of_token_files_are_olmo_cores_instances_and_labels_go_one_token_further(tmp_path: Path) -> None:
    """T inputs are the same. OLMo-core's T - 1 labels are an instance shifted; our last label is the next instance's first token.

    So a file of a whole number of instances, whose last one has no token behind it, gives one sample fewer.
    """
    with np.load(MADE) as made:
        files, instances = (made["first"], made["second"]), made["instances"].astype(np.int64)
    store = MemoryStore()
    manifest = put_dataset(store, *files, vocab_size=VOCAB_SIZE)
    assert (len(instances), manifest.num_samples(SEQ_LEN), manifest.eos_id) == (29, 28, EOS_ID)
    loader = build_loader(
        manifests=(manifest,),
        config=DataConfig(seq_len=SEQ_LEN),
        store=store,
        cache_dir=tmp_path,
        batch_rows=4,
    )
    with closing(loader):
        rows = [loader.readers[SEQ_LEN][0].row(index) for index in range(28)]
    batch = build_batch([SampleRef(0, index) for index in range(28)], rows, seq_len=SEQ_LEN, eos_id=EOS_ID, document_masking=False)
    expected = torch.from_numpy(instances[:28])
    assert torch.equal(batch.tokens_BT, expected)
    assert torch.equal(batch.labels_BT[:, :-1], expected[:, 1:])
    followers = [files[0][SEQ_LEN * number] for number in range(1, 21)] + [files[1][SEQ_LEN * number] for number in range(1, 9)]
    assert batch.labels_BT[:, -1].tolist() == [int(token) for token in followers]

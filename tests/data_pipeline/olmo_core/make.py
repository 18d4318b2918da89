"""Makes `instances.npz`: `python -m tests.data_pipeline.olmo_core.make`, where OLMo-core 3.0 is installed (pip install ai2-olmo-core).

Two token files as OLMo's are, raw little-endian uint16, and the instances that OLMo-core's NumpyFSLDataset cuts them into. The second file
is a whole number of instances long.
"""

import tempfile
from pathlib import Path

import numpy as np

from bench.olmo_core import admit_olmo_core

SEQ_LEN = 64
EOS_ID = 0
VOCAB_SIZE = 50_000
MADE = Path(__file__).with_name("instances.npz")


def main() -> None:
    admit_olmo_core()
    from olmo_core.data import NumpyFSLDataset

    random = np.random.default_rng(15)
    files = [random.integers(VOCAB_SIZE, size=size, dtype=np.uint16) for size in (SEQ_LEN * 20 + 37, SEQ_LEN * 9)]
    for tokens in files:
        tokens[random.integers(len(tokens), size=12)] = EOS_ID
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{number}.npy" for number in range(len(files))]
        for path, tokens in zip(paths, files, strict=True):
            path.write_bytes(tokens.astype("<u2").tobytes())
        dataset = NumpyFSLDataset(
            *paths, sequence_length=SEQ_LEN, pad_token_id=EOS_ID, eos_token_id=EOS_ID, vocab_size=VOCAB_SIZE, dtype=np.uint16
        )
        dataset.work_dir = Path(directory)
        dataset.prepare()
        instances = [np.asarray(dataset[number]["input_ids"]) for number in range(len(dataset))]
    np.savez_compressed(MADE, first=files[0], second=files[1], instances=np.stack(instances).astype(np.uint16))


if __name__ == "__main__":
    main()

"""Makes `mds.zip`: `python -m tests.data_pipeline.mosaic.make`, where streaming 0.13 is installed (pip install mosaicml-streaming).

The same documents in every kind of packing, with columns before and behind the text, of fixed and of other sizes; several shards each.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from bench.data_peers import admit_mosaic

MADE = Path(__file__).with_name("mds.zip")
TEXTS = ("first", "Grüße — 你好 🙂", "", " \n", "line\r\nline\n", *(f"document {number} " * (number % 7) for number in range(5, 24)))
COLUMNS = {"id": "str", "a": "int", "b": "bytes", "text": "str", "tokens": "ndarray:uint16", "z": "float32"}
KINDS = {"plain": None, "zstd": "zstd:7", "gz": "gz", "bz2": "bz2", "snappy": "snappy"}


def main() -> None:
    admit_mosaic()
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory))
        shutil.make_archive(str(MADE.with_suffix("")), "zip", directory)


def make(directory: Path) -> None:
    from streaming import MDSWriter

    for name, compression in KINDS.items():
        with MDSWriter(out=str(directory / name), columns=COLUMNS, compression=compression, hashes=["xxh64"], size_limit=1800) as writer:
            for number, text in enumerate(TEXTS):
                tokens = np.arange(number + 1, dtype=np.uint16)
                writer.write({"id": f"doc-{number}", "a": number, "b": b"x" * number, "text": text, "tokens": tokens, "z": np.float32(0.5)})
    for encoding in ("int", "uint8", "int32", "str_int", "pkl"):
        with MDSWriter(out=str(directory / f"id_{encoding}"), columns={"id": encoding, "text": "str"}) as writer:
            writer.write({"id": np.dtype(encoding).type(200) if encoding in ("uint8", "int32") else 200, "text": "one"})
    with MDSWriter(out=str(directory / "no_text"), columns={"content": "str", "n": "int"}) as writer:
        writer.write({"content": "one", "n": 1})
    with MDSWriter(out=str(directory / "bytes"), columns={"text": "bytes"}) as writer:
        writer.write({"text": b"one"})


if __name__ == "__main__":
    main()

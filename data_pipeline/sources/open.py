"""The front door to raw documents: from a path to a corpus. The only list of the kinds of sources."""

from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources import json_records, mds, parquet
from data_pipeline.sources.content import begins_like_records, not_text
from data_pipeline.sources.corpus import Corpus, corpus_file
from data_pipeline.sources.files import head_of, is_packed, name_unpacked
from data_pipeline.sources.find import corpus_files
from data_pipeline.sources.json_records import JsonFile, JsonLinesFile, begins_with_a_document
from data_pipeline.sources.parquet import ParquetFile
from data_pipeline.sources.protocol import Source
from data_pipeline.sources.stdlib import stdlib_corpus
from data_pipeline.sources.text import TextFile


def open_corpus(path: Path | None) -> Corpus:
    """The documents of a file, or of every file below a directory as `find.py` finds them; for None the standard library's own source.

    Shards of MDS are found by the `index.json` that names them.

    Raises CorpusInvalid where there is no file, or one that can't be read or is no text.
    """
    if path is None:
        return stdlib_corpus()
    root = path if path.is_dir() else path.parent
    shards, others = mds.shards_among(corpus_files(path))
    sources: dict[Path, Source] = {**shards, **{file: source_of(file) for file in others}}
    return Corpus(tuple(corpus_file(sources[file], file.relative_to(root).as_posix()) for file in sorted(sources)))


def source_of(file: Path) -> Source:
    """The documents of one file, whose kind is told by its name, in any case, and by how its content begins.

    `.jsonl` (`.ndjson`) has a record per line, `.json` records in any arrangement, and so has a file of another name that begins with a
    record; `.parquet` has a document per row; each in the field `text`. Any other file of text is one document. All but Parquet may be
    packed. Raises CorpusInvalid for what is none of these.
    """
    head, name = head_of(file), name_unpacked(file)
    if name.endswith(parquet.SUFFIXES) or head.startswith(parquet.MAGIC):
        if is_packed(file):
            raise CorpusInvalid(f"{file}: Parquet, packed as a whole; unpack it, or keep it out of the corpus")
        return ParquetFile(file)
    if kind := not_text(head):
        raise CorpusInvalid(f"{file}: {kind}, not UTF-8 text; convert or unpack it, or keep it out of the corpus")
    if name.endswith(json_records.LINES_SUFFIXES):
        return JsonLinesFile(file)
    if name.endswith(json_records.SUFFIXES) or (begins_like_records(head) and begins_with_a_document(file)):
        return JsonFile(file)
    return TextFile(file)

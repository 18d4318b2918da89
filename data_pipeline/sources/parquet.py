"""A Parquet file: one document per row, in the column `text`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import Schema, parquet, types

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import read_errors
from data_pipeline.sources.protocol import TEXT_FIELD

SUFFIXES = (".parquet",)
MAGIC = b"PAR1"
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """The column `text` of every row; other columns are not read."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with read_errors(self.path), parquet.ParquetFile(self.path) as table:
            self._check_columns(table.schema_arrow)
            batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=[TEXT_FIELD])
            rows = (document for batch in batches for document in batch.column(0).to_pylist())
            for number, document in enumerate(rows, start=1):
                if not isinstance(document, str):
                    raise CorpusInvalid(f'{self.path}: row {number}: no string in the column "{TEXT_FIELD}"; every row needs one')
                yield document

    def _check_columns(self, schema: Schema) -> None:
        if schema.names.count(TEXT_FIELD) != 1:
            how_many = "no column" if TEXT_FIELD not in schema.names else "more than one column"
            names = ", ".join(schema.names)
            raise CorpusInvalid(f'{self.path}: {how_many} "{TEXT_FIELD}" among {names}; give that name to the one with the documents')
        kind = schema.field(TEXT_FIELD).type
        value_kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(is_text(value_kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)):
            raise CorpusInvalid(f'{self.path}: the column "{TEXT_FIELD}" is {kind}; cast it to string, a document per row')

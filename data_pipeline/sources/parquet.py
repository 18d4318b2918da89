"""A Parquet file: one document per row, in the column `text`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import Schema, parquet, types

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import read_errors, stamp_of
from data_pipeline.sources.protocol import BEGINNING, ID_FIELD, TEXT_FIELD, Document, Place, Stamp, Texts, texts_in_chunks

SUFFIXES = (".parquet",)
MAGIC = b"PAR1"
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """The column `text` of every row, and `id` if that is text or a number; other columns are not read."""

    path: Path

    def chunks(self, start: Place = BEGINNING) -> Iterator[Texts]:
        return texts_in_chunks(self._rows(), start)

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def _rows(self) -> Iterator[tuple[Document, float]]:
        with read_errors(self.path), parquet.ParquetFile(self.path) as table:
            self._check_columns(table.schema_arrow)
            names = [name for name in (TEXT_FIELD, ID_FIELD) if name == TEXT_FIELD or _names_documents(table.schema_arrow)]
            batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=names)
            rows = (row for batch in batches for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True))
            for number, (document, *own) in enumerate(rows, start=1):
                if not isinstance(document, str):
                    raise CorpusInvalid(f'{self.path}: row {number}: no string in the column "{TEXT_FIELD}"; every row needs one')
                own_id = "" if not own or own[0] is None else str(own[0])
                yield Document(text=document, number=number, id=own_id), number / table.metadata.num_rows

    def _check_columns(self, schema: Schema) -> None:
        if schema.names.count(TEXT_FIELD) != 1:
            how_many = "no column" if TEXT_FIELD not in schema.names else "more than one column"
            names = ", ".join(schema.names)
            raise CorpusInvalid(f'{self.path}: {how_many} "{TEXT_FIELD}" among {names}; give that name to the one with the documents')
        kind = schema.field(TEXT_FIELD).type
        value_kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(is_text(value_kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)):
            raise CorpusInvalid(f'{self.path}: the column "{TEXT_FIELD}" is {kind}; cast it to string, a document per row')


def _names_documents(schema: Schema) -> bool:
    if schema.names.count(ID_FIELD) != 1:
        return False
    kind = schema.field(ID_FIELD).type
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_integer))

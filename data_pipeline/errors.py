"""Errors of datasets. Each message is one line that names the object and the remedy."""


class DataError(Exception):
    """A dataset can't be built or read."""


class DatasetMissing(DataError):
    """There is no dataset of this name under the storage root."""


class DatasetExists(DataError):
    """There is another dataset of this name already."""


class DatasetTooSmall(DataError):
    """The dataset holds not a single sample of the wanted length."""


class ManifestInvalid(DataError):
    """The manifest of a dataset is not what this version writes."""


class OrderImpossible(DataError):
    """There is no order of the datasets as the recipe wants it."""


class ShardMissing(DataError):
    """The manifest names a shard that is not on the object store."""


class ShardCorrupt(DataError):
    """A shard differs from what the manifest says of it."""


class PackingMissing(DataError):
    """A dataset is not packed into rows of the wanted length, or what was packed is another one."""


class DocumentsUnknown(DataError):
    """Nobody recorded which documents a shard is made of."""


class BuildFailed(DataError):
    """What tokenizes ends again and again."""


class CacheUnusable(DataError):
    """The local directory where shards are cached can't be written."""


class CorpusInvalid(DataError):
    """The raw documents can't be read, or there are none."""


class TokenizerInvalid(DataError):
    """The tokenizer can't be read, or has no end-of-text token."""


class FilesInvalid(DataError):
    """Files that were to be registered are not tokens, not those of the vocabulary, or can't be read."""

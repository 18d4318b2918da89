"""Errors of datasets. Each message is one line which names the object and the remedy."""


class DataError(Exception):
    """A dataset can't be built or read."""


class DatasetMissing(DataError):
    """No dataset of this name under the storage root."""


class DatasetExists(DataError):
    """Another dataset has this name already."""


class DatasetTooSmall(DataError):
    """Not a single sample of the wanted length."""


class ManifestInvalid(DataError):
    """The manifest is not what this version writes."""


class ShardMissing(DataError):
    """The manifest names a shard which is not there."""


class ShardCorrupt(DataError):
    """A shard is not what the manifest says."""


class CacheUnusable(DataError):
    """The local cache directory can't be written."""


class CorpusInvalid(DataError):
    """The raw text can't be read."""


class TokenizerInvalid(DataError):
    """The tokenizer can't be read, or has no end-of-text token."""

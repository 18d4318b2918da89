"""What a failure of S3 means: whether it is transient or permanent, and what to tell a person. The one place that decides this.

Messages name the error's code or type only: a server's own words might repeat what it was sent.
"""

from http.client import IncompleteRead

from aiohttp import ClientError as HttpError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)

from data_pipeline.store.protocol import AccessDenied, BucketMissing, KeyExists, KeyMissing, StoreError
from data_pipeline.store.retry import CredentialsAbsent, FileSystemFailed, TransientError

RAISED_BY_S3 = (OSError, BotoCoreError, ClientError, HttpError, IncompleteRead)
"""Everything that botocore and aiohttp raise when a call fails; timeouts are OSErrors."""


class BucketExists(StoreError):
    """The bucket that was to be made is there already, and ours."""


class RangePastEnd(StoreError):
    """The wanted range begins at or after the object's end."""


class NoSuchRule(StoreError):
    """The bucket has no lifecycle rules."""


_DENIED = "access denied ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the bucket's policy"
_CREDENTIALS = {
    "AccessDenied",
    "AllAccessDisabled",
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "403",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "507"}
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301", "307"}
_MEANINGS: tuple[tuple[set[str], type[StoreError], str], ...] = (
    ({"NoSuchBucket"}, BucketMissing, "no such bucket at {endpoint}; create it, or fix storage.root"),
    ({"NoSuchKey", "NoSuchUpload", "404"}, KeyMissing, "no such object; check the name and storage.root"),
    ({"PreconditionFailed", "412"}, KeyExists, "exists already; another writer was first"),
    ({"BucketAlreadyOwnedByYou"}, BucketExists, "the bucket exists already"),
    ({"NoSuchLifecycleConfiguration"}, NoSuchRule, "has no lifecycle rules"),
    ({"InvalidRange", "416"}, RangePastEnd, "shorter than the range that was asked for"),
    ({"InvalidObjectState"}, StoreError, "lies in an archive ({code}); restore it to a storage class that can be read at once"),
    (_REGION, StoreError, "the bucket is in another region ({code}); set AWS_DEFAULT_REGION to its region"),
    ({"RequestTimeTooSkewed"}, AccessDenied, "this machine's clock is wrong ({code}); set it, for example with NTP"),
    (_FULL, FileSystemFailed, "{endpoint} has no room left ({code}); free some, or raise the quota"),
    (_EXPIRED, CredentialsAbsent, "access denied ({code}); renew the token, or what renews it"),
    (_CREDENTIALS, AccessDenied, _DENIED),
)
"""Codes, the error that they are, and what to tell."""
_TRANSIENT = {
    "BadDigest",  # of what arrived: the wire changed it
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
    "409",
}
_PASSING = (408, 425, 429)
"""Of the statuses below 500, those after which another try may succeed."""
_LASTING = (501, 505)
"""Of those above, the ones that say what the server is not made for: every try gets them."""
_WRONG_SETTINGS = (PartialCredentialsError, ProfileNotFound)
_NO_CREDENTIALS_NOW = (NoCredentialsError, CredentialRetrievalError, MetadataRetrievalError, SSOError, TokenRetrievalError)
"""What hands out credentials did not, which it may do for a few minutes: an instance's metadata service, or a token service."""


def to_store_error(error: Exception, *, url: str, endpoint: str) -> StoreError:
    """What to raise for `error`, which a call about the object at `url` raised; a TransientError where another try may succeed."""
    if isinstance(error, (*_WRONG_SETTINGS, *_NO_CREDENTIALS_NOW)):
        kind = AccessDenied if isinstance(error, _WRONG_SETTINGS) else CredentialsAbsent
        return kind(
            f"{url}: no usable credentials ({type(error).__name__}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        )
    if isinstance(error, SSLError):
        return StoreError(f"{url}: TLS with {endpoint} failed; check storage.endpoint_url and the certificates (AWS_CA_BUNDLE)")
    if isinstance(error, ParamValidationError):
        return StoreError(f"{url}: not a valid S3 location; check storage.root")
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _from_code(code, status, url=url, endpoint=endpoint, pause_s=_pause_s(error))
    cause = "none in time" if isinstance(error, TimeoutError) else type(error).__name__
    return TransientError(f"{url}: no answer from {endpoint} ({cause})")


def _pause_s(error: ClientError) -> float:
    """How long the server says to wait; a date, which HTTP allows too, says nothing to us."""
    said = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(said) if said.isdecimal() else 0.0


def _from_code(code: str, status: int, *, url: str, endpoint: str, pause_s: float) -> StoreError:
    for codes, kind, told in _MEANINGS:
        if code in codes:
            return kind(f"{url}: {told.format(code=code, endpoint=endpoint)}")
    if code in _TRANSIENT or status in _PASSING or (status >= 500 and status not in _LASTING):
        return TransientError(f"{url}: {endpoint} answered {code}", pause_s=pause_s)
    if status in (401, 403):
        return AccessDenied(f"{url}: {_DENIED.format(code=code)}")
    return StoreError(f"{url}: {endpoint} refused ({code}); check that it is an S3 server which supports conditional writes")

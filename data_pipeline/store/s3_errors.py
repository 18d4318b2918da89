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
from data_pipeline.store.retry import CredentialsAbsent, TransientError

RAISED_BY_S3 = (OSError, BotoCoreError, ClientError, HttpError, IncompleteRead)
"""Everything that botocore and aiohttp raise when a call fails; timeouts are OSErrors."""


class BucketExists(StoreError):
    """The bucket that was to be made is there already, and ours."""


class RangePastEnd(StoreError):
    """The wanted range begins at or after the object's end."""


class NoSuchRule(StoreError):
    """The bucket has no lifecycle rules."""


_MISSING_KEY = {"NoSuchKey", "NoSuchUpload", "404"}
_PRECONDITION = {"PreconditionFailed", "412"}
_OWN_BUCKET = {"BucketAlreadyOwnedByYou"}
_RANGE = {"InvalidRange", "416"}
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
_BUSY = 429
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301", "307"}
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
    if code == "NoSuchBucket":
        return BucketMissing(f"{url}: no such bucket at {endpoint}; create it, or fix storage.root")
    if code in _MISSING_KEY:
        return KeyMissing(f"{url}: no such object; check the name and storage.root")
    if code in _PRECONDITION:
        return KeyExists(f"{url}: exists already; another writer was first")
    if code in _OWN_BUCKET:
        return BucketExists(f"{url}: the bucket exists already")
    if code == "NoSuchLifecycleConfiguration":
        return NoSuchRule(f"{url}: has no lifecycle rules")
    if code in _RANGE:
        return RangePastEnd(f"{url}: shorter than the range that was asked for")
    if code in _REGION:
        return StoreError(f"{url}: the bucket is in another region ({code}); set AWS_DEFAULT_REGION to its region")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{url}: this machine's clock is wrong ({code}); set it, for example with NTP")
    if code in _TRANSIENT or status == _BUSY or status >= 500:
        return TransientError(f"{url}: {endpoint} answered {code}", pause_s=pause_s)
    if code in _EXPIRED:
        return CredentialsAbsent(f"{url}: access denied ({code}); renew the token, or what renews it")
    if code in _CREDENTIALS or status in (401, 403):
        return AccessDenied(
            f"{url}: access denied ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the bucket's policy"
        )
    return StoreError(f"{url}: {endpoint} refused ({code}); check that it is an S3 server which supports conditional writes")

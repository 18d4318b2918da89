"""What each kind of answer of an S3 server means."""

import pytest
from botocore.exceptions import ClientError

from data_pipeline.store.protocol import AccessDenied, BucketMissing, KeyExists, KeyMissing, StoreError
from data_pipeline.store.retry import CredentialsAbsent, FileSystemFailed, TransientError
from data_pipeline.store.s3_errors import RangePastEnd, to_store_error

KINDS: dict[type[StoreError], list[tuple[str, int]]] = {
    TransientError: [
        *(("SlowDown", 503), ("InternalError", 500), ("ServiceUnavailable", 503), ("503", 503), ("Bad Gateway", 502), ("504", 504)),
        *(("RequestTimeout", 400), ("408", 408), ("425", 425), ("TooManyRequests", 429), ("429", 429), ("OperationAborted", 409)),
        *(("ConditionalRequestConflict", 409), ("BadDigest", 400), ("511", 511)),
    ],
    FileSystemFailed: [("QuotaExceeded", 403), ("XMinioStorageFull", 507), ("507", 507)],
    CredentialsAbsent: [("ExpiredToken", 400), ("RequestExpired", 403)],
    StoreError: [
        *(("NotImplemented", 501), ("501", 501), ("505", 505), ("MethodNotAllowed", 405), ("405", 405), ("InvalidArgument", 400)),
        *(("PermanentRedirect", 301), ("InvalidObjectState", 403), ("EntityTooLarge", 400)),
    ],
    AccessDenied: [("AccessDenied", 403), ("403", 403), ("NotSignedUp", 403), ("RequestTimeTooSkewed", 403), ("401", 401)],
    KeyMissing: [("NoSuchKey", 404), ("404", 404), ("NoSuchUpload", 404)],
    BucketMissing: [("NoSuchBucket", 404)],
    KeyExists: [("PreconditionFailed", 412), ("412", 412)],
    RangePastEnd: [("InvalidRange", 416)],
}


def meanings() -> list[tuple[str, int, type[StoreError]]]:
    return [(code, status, kind) for kind, answers in KINDS.items() for code, status in answers]


@pytest.mark.parametrize(("code", "status", "kind"), meanings())
def test_an_answer_is_of_the_kind_that_says_whether_another_try_helps(code: str, status: int, kind: type[StoreError]) -> None:
    answer = {"Error": {"Code": code, "Message": "a secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(answer, "PutObject")  # type: ignore[arg-type]
    found = to_store_error(error, url="s3://bucket/key", endpoint="http://server:1")
    assert type(found) is kind
    assert str(found).startswith("s3://bucket/key: ")
    assert "secret" not in str(found)
    assert "\n" not in str(found)

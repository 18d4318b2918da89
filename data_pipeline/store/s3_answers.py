"""Whether an answer of 200 is S3's, and about what was asked. Pure.

A network's login page, a load balancer's or a cache's answer may have that status too, and would count as an object's bytes.
"""

import re
from collections.abc import Mapping
from typing import Any

HOLDS = {
    "complete_multipart_upload": ("ETag",),
    "create_multipart_upload": ("UploadId",),
    "get_object": ("ETag", "ContentLength"),
    "head_object": ("ETag",),
    "list_multipart_uploads": ("IsTruncated",),
    "list_objects_v2": ("IsTruncated",),
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
}
"""What every S3 server's answer to an operation holds."""


def is_answer(operation: str, answer: Mapping[str, Any]) -> bool:
    """Whether an S3 server can have given this answer to the operation."""
    return all(name in answer for name in HOLDS.get(operation, ()))


def is_range(answer: Mapping[str, Any], start: int, length: int) -> bool:
    """Whether the answer to `get_object` is about bytes [start, start + length), fewer where the object ends before."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.get("ContentRange", ""))
    if found is None:
        return False
    first, last, size = map(int, found.groups())
    return first == start and last == min(start + length, size) - 1 and answer["ContentLength"] == last - first + 1

"""Documents that the tests of all kinds of sources read."""

import json

DOCUMENTS = ["first\ndocument", "zweites Dokument: ß", "三"]


def json_lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": document}, ensure_ascii=False) + "\n" for document in documents).encode()

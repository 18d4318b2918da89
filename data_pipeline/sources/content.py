"""What a file holds, by how its content begins: text, records in JSON, or something that is no text. Pure."""

import codecs
import re

from data_pipeline.sources.unpack import packing_of

_WIDE_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks of encodings that are not UTF-8; UTF-32's begin like UTF-16's."""
_ISO_2022 = re.compile(rb"\x1b\$[@A-D(-/]")
"""How Chinese, Japanese or Korean in seven bits, which would pass for UTF-8, begins; no terminal is told so."""
_WRITTEN_AS_TEXT = {b"%PDF-": "a PDF", b"%!PS": "PostScript", b"{\\rtf": "RTF", b"!<arch>\n": "an archive"}
"""Formats that may have no byte which text has not."""
_BINARY = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"\x1f\x9d": "compress data",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "RIFF media",
    b"OggS": "Ogg media",
    b"ID3": "MP3 audio",
    b"fLaC": "FLAC audio",
    b"\x7fELF": "an ELF binary",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\0": "an SQLite database",
    b"GGUF": "GGUF weights",
    **{b"\x80" + bytes([protocol]): "a pickle" for protocol in range(2, 6)},
}
_TAR, _TAR_MAGIC_AT = b"ustar", 257
_SAFETENSORS = re.compile(rb".{6}\0\0\{\"", re.DOTALL)
_RECORDS = re.compile(r"\ufeff?\s*(\[\s*)?\{\s*\"")
_CONTROLS = frozenset(range(0x20)) - frozenset(b"\b\t\n\v\f\r\x1a\x1b")
"""Without those that text files have: white space, the end mark of DOS, what colours a terminal."""
_LARGEST_SHARE_OF_CONTROLS = 0.1


def not_text(head: bytes) -> str:
    """What a file that begins with these bytes is, such as `a PDF`, if it is not UTF-8 text; empty for what may be."""
    if encoding := _beginning_of(head, _WIDE_MARKS):
        return f"{encoding} text"
    if packing := packing_of(head):
        return f"{packing} data (packed twice)"
    if written := _beginning_of(head, _WRITTEN_AS_TEXT):
        return written
    num_controls = sum(byte in _CONTROLS for byte in head)
    if b"\0" not in head and num_controls <= _LARGEST_SHARE_OF_CONTROLS * len(head) and _is_utf8(head):
        return "ISO-2022 text" if _ISO_2022.search(head) else ""
    if head[_TAR_MAGIC_AT:].startswith(_TAR):
        return "a tar archive"
    if _SAFETENSORS.match(head):
        return "safetensors weights"
    return _beginning_of(head, _BINARY) or _unknown(head)


def begins_like_records(head: bytes) -> bool:
    """Whether these bytes begin a JSON object, or an array of objects."""
    return _RECORDS.match(head.decode("utf-8", "replace")) is not None


def _unknown(head: bytes) -> str:
    if b"\0" not in head:
        return "binary data" if _is_utf8(head) else "text in another encoding, or binary data"
    return "binary data with NUL bytes, or UTF-16"


def _beginning_of(head: bytes, names: dict[bytes, str]) -> str:
    return next((name for beginning, name in names.items() if head.startswith(beginning)), "")


def _is_utf8(head: bytes) -> bool:
    """Whether it is, but for a character that ends behind it."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True

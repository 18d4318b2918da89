"""Addresses and passwords, read where they are kept whenever they are needed, and said to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class SecretMissing(Exception):
    """There is nothing where a recipe says that a secret is kept. The message names the place."""


def read_secret(place: str, environ: Mapping[str, str]) -> str:
    """What is kept at `env:NAME` or `file:/PATH` of this machine. Raises SecretMissing."""
    kind, _, name = place.partition(":")
    if kind == "env":
        secret = environ.get(name, "")
    else:
        try:
            secret = Path(name).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise SecretMissing(f"{place}: can't be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if not secret.strip():
        raise SecretMissing(f"{place}: is {'not set' if kind == 'env' else 'empty'}")
    return secret.strip()

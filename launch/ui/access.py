"""Who may read the page: which hosts it answers to, the token, and what a browser may do with what it gets."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1"])
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: no script but the page's own files, nothing from elsewhere, in no frame of others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Made by `access_for`."""

    names: frozenset[str]
    """Names that this server goes by, in lower case. Numeric addresses are always answered: no foreign name resolves to one."""
    token: str = field(default="", repr=False)
    """Empty: whoever reaches the port may read."""

    @property
    def cookie(self) -> str:
        """The cookie's name. Cookies know no ports: two servers of one host have different tokens, so different names."""
        return f"braid-ui-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def answers_to(self, host: str) -> bool:
        """Whether a Host header is one of ours; a page of others whose name was bound to our address has its own."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self.names or _is_numeric(name)

    def lets_in(self, *, authorization: str, cookies: Mapping[str, str]) -> bool:
        """Whether a request bears the token, as a header `Authorization: Bearer …` or in our cookie."""
        scheme, _, bearer = authorization.partition(" ")
        return (
            not self.token or (scheme.lower() == "bearer" and self.is_token(bearer.strip())) or self.is_token(cookies.get(self.cookie, ""))
        )

    def is_token(self, text: str) -> bool:
        """In a time that tells nothing of the token."""
        return hmac.compare_digest(text.encode("utf-8", "surrogateescape"), self.token.encode())


def access_for(host: str, token: str = "") -> Access:
    """For a server that listens on `host`: beyond loopback a token is needed, and drawn where none is given."""
    is_loopback = host.lower() in LOOPBACK or (_is_numeric(host) and ipaddress.ip_address(host).is_loopback)
    names = {*LOOPBACK, host.lower(), *(() if is_loopback else (socket.gethostname().lower(), socket.getfqdn().lower()))}
    return Access(names=frozenset(names), token=token or ("" if is_loopback else secrets.token_urlsafe(24)))


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

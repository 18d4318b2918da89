"""The sections `alerts` and `metrics` of a recipe: who is told of a run's troubles, from where on, and who may read its numbers. Pure.

No address and no password is in a recipe: a key says where it is kept on the node of the run's controller, `env:NAME` for a variable of
its environment, `file:/PATH` for a file's first line, and it is read whenever something is sent.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields

_PLACE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):\d{1,5}")
_MAILBOX = re.compile(r"[^\s@<>,]+@[^\s@<>,]+")
HIGHEST_PORT = 65535


def _check_places(key: str, places: tuple[str, ...]) -> None:
    """The value is told to nobody: it may be the secret itself."""
    for index, place in enumerate(places):
        if not _PLACE.fullmatch(place):
            where = f"{key}[{index}]" if len(places) > 1 else key
            raise ValueError(f"{where}: say where the secret is kept, not the secret: env:NAME or file:/PATH on the controller's node")


def _is_typed(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class EmailConfig:
    """One mail for each message, over SMTP with TLS."""

    to: tuple[str, ...]
    sender: str
    server: str
    """HOST:PORT; port 465 speaks TLS from the first byte, any other is asked for STARTTLS."""
    user: str = ""
    """Empty: no login."""
    password: str = ""
    """Where the password is kept."""
    tls: bool = True
    """false for a relay on a trusted network that has none."""

    def __post_init__(self) -> None:
        if not self.to or not all(_MAILBOX.fullmatch(one) for one in (*self.to, self.sender)):
            raise ValueError("alerts.emails: to and sender take addresses such as ops@example.org")
        if not _SERVER.fullmatch(self.server) or int(self.server.rpartition(":")[2]) > HIGHEST_PORT:
            raise ValueError(f"alerts.emails: server={self.server!r}: use HOST:PORT, such as smtp.example.org:587")
        if bool(self.user) != bool(self.password):
            raise ValueError("alerts.emails: user and password go together; give both, or neither for a server that asks for none")
        if self.password:
            _check_places("alerts.emails.password", (self.password,))
        if self.user and not self.tls:
            raise ValueError("alerts.emails: tls=false would send the password in the clear; leave tls out, or user and password")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertsConfig:
    """Who is told, and from where on something is worth telling."""

    webhooks: tuple[str, ...] = ()
    """Where addresses are kept that take a message as JSON."""
    slack: tuple[str, ...] = ()
    """The same of incoming webhooks of Slack, or of what speaks like it (Mattermost, Discord's /slack)."""
    commands: tuple[str, ...] = ()
    """Programs with arguments, as one types them, on the controller's node: text on stdin, fields as BRAID_ALERT_… in the environment."""
    emails: tuple[EmailConfig, ...] = ()
    heartbeat: str = ""
    """Where the address of a dead-man's switch is kept, which raises the alarm when it is not asked for any more; empty for none."""
    heartbeat_every_s: float = 60.0
    max_per_hour: int = 20
    """Messages to one receiver; what is more waits, and comes as one."""
    stuck_after: float = 20.0
    """Usual step times without a step, `stuck_after_s` at least."""
    stuck_after_s: float = 60.0
    recovering_after_s: float = 600.0
    """Time from a failure to the next step."""
    spread_above: float = 10.0
    """How far loss or gradient norm may be above the median of their last 1,000 steps, in spreads (half of those steps are within one)."""
    pace_below: float = 0.7
    """Part of a run's own usual tokens/s."""
    goodput_below: float = 0.5
    """Part of the time since the run was submitted that trained it, less stops by a person; judged from its second hour on; 0 for never."""
    checkpoints_behind: float = 3.0
    """Intervals of `checkpoint.every_steps` without a new checkpoint."""

    def __post_init__(self) -> None:
        for name in ("webhooks", "slack"):
            _check_places(f"alerts.{name}", getattr(self, name))
        if self.heartbeat:
            _check_places("alerts.heartbeat", (self.heartbeat,))
        for index, command in enumerate(self.commands):
            if not _is_typed(command):
                raise ValueError(f"alerts.commands[{index}]: is no program with arguments as a shell would take them; check its quotes")
        for number in (one for one in fields(self) if one.type == "float" and one.name not in ("pace_below", "goodput_below")):
            if not getattr(self, number.name) > 0:
                raise ValueError(f"alerts.{number.name}={getattr(self, number.name):g}: must be above 0")
        for name in ("pace_below", "goodput_below"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"alerts.{name}={getattr(self, name):g}: use a part from 0, which is never, to below 1")
        if self.max_per_hour < 1:
            raise ValueError(f"alerts.max_per_hour={self.max_per_hour}: must be at least 1")

    @property
    def has_receivers(self) -> bool:
        return bool(self.webhooks or self.slack or self.commands or self.emails)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """Numbers for Prometheus at /metrics, from the process of the run's controller."""

    port: int | None = None
    """None: not served. The controller may come back on another node: let Prometheus look at every node that may be the head's."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every one of the node."""
    token: str = ""
    """Where the token is kept that a scrape must bring as `Authorization: Bearer …`; empty: anybody who reaches the port may read."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= HIGHEST_PORT:
            raise ValueError(f"metrics.port={self.port}: use 1 to {HIGHEST_PORT}, or leave it out to serve none")
        if not self.host or any(character.isspace() for character in self.host):
            raise ValueError(f"metrics.host={self.host!r}: use an address of the node, such as 127.0.0.1 or 0.0.0.0")
        if self.token:
            _check_places("metrics.token", (self.token,))
        if self.port is None and (self.host, self.token) != ("127.0.0.1", ""):
            raise ValueError("metrics.port: missing, and without it metrics has no meaning; set metrics.port=9464")

"""Who takes a message, and how it gets there. No error says an address: it may have a token in it."""

from __future__ import annotations

import http
import http.client
import json
import os
import shlex
import signal
import smtplib
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from orchestrator.alerting.message import Message, environment_of, json_of, subject_of, text_of
from orchestrator.alerting.secrets import SecretMissing, read_secret
from orchestrator.alerts_config import AlertsConfig, EmailConfig
from orchestrator.deadlines import ALERT_ANSWERED_WITHIN_S, ALERT_COMMAND_WITHIN_S

Environ = Mapping[str, str]


class NotTaken(Exception):
    """A receiver did not take a message; the line says why, and no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    name: str
    """What people, the outbox and the status call it: the kind, and where its address is kept."""
    send: Callable[[Message], str]
    """Returns what it answered, in words. Raises NotTaken. Blocks for as long as the receiver takes, up to its deadline."""


def receivers_of(alerts: AlertsConfig, environ: Environ) -> tuple[Receiver, ...]:
    """Everyone that the recipe names, each with a name of its own."""
    found = [(f"webhook {place}", partial(send_to_webhook, place, environ)) for place in alerts.webhooks]
    found += [(f"slack {place}", partial(send_to_slack, place, environ)) for place in alerts.slack]
    found += [(f"command {shlex.split(command)[0]}", partial(run_command, command, environ)) for command in alerts.commands]
    found += [(f"email {', '.join(one.to)}", partial(send_mail, one, environ)) for one in alerts.emails]
    names = [name for name, _ in found]
    return tuple(
        Receiver(name=name if names.index(name) == index else f"{name} ({index + 1})", send=told(send))
        for index, (name, send) in enumerate(found)
    )


def told(send: Callable[[Message], str]) -> Callable[[Message], str]:
    """The same, with every error as a NotTaken that says no secret: of what is not known to be harmless only its kind."""

    def sent(message: Message) -> str:
        try:
            return send(message)
        except NotTaken:
            raise
        except SecretMissing as error:
            raise NotTaken(str(error)) from None
        except Exception as error:  # noqa: BLE001 — whatever it is, the words of another's error may hold the address
            raise NotTaken(words_of(error)) from None

    return sent


def words_of(error: BaseException) -> str:
    """What went wrong, without what it was about."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {_phrase(error.code)}".strip()
    if isinstance(error, smtplib.SMTPResponseException):
        return f"SMTP {error.smtp_code} ({type(error).__name__})"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return words_of(error.reason)
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({getattr(error, 'reason', '') or type(error).__name__})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else "its name is not known"
    return type(error).__name__


def _phrase(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""


# --- HTTP --------------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is sent to one address is for no other."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def ask(url: str, data: bytes | None = None) -> str:
    """GET, or POST of JSON. Returns the answer's status in words. Raises NotTaken, and what urllib does."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise NotTaken("what is kept there is no http:// or https:// address")
    request = urllib.request.Request(url, data=data, headers={"User-Agent": "braid", "Content-Type": "application/json"})
    with _OPENER.open(request, timeout=ALERT_ANSWERED_WITHIN_S) as answer:
        return f"HTTP {answer.status} {_phrase(answer.status)}".strip()


def send_to_webhook(place: str, environ: Environ, message: Message) -> str:
    return ask(read_secret(place, environ), json.dumps(json_of(message)).encode())


def send_to_slack(place: str, environ: Environ, message: Message) -> str:
    text = text_of(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # else `<!channel>` in an error calls everybody
    return ask(read_secret(place, environ), json.dumps({"text": text}).encode())


# --- a command, a mail -------------------------------------------------------------------------------------------------


def run_command(command: str, environ: Environ, message: Message) -> str:
    """In a session of its own, which is killed as a whole when it takes too long."""
    process = subprocess.Popen(
        shlex.split(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environ, **environment_of(message)},
        start_new_session=True,
        text=True,
    )
    try:
        process.communicate(text_of(message) + "\n", timeout=ALERT_COMMAND_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NotTaken(f"did not end within {ALERT_COMMAND_WITHIN_S:g} s, and was killed") from None
    if process.returncode != 0:
        raise NotTaken(f"exit status {process.returncode}")
    return "exit status 0"


def send_mail(config: EmailConfig, environ: Environ, message: Message) -> str:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = config.sender, ", ".join(config.to), subject_of(message)
    mail["Message-ID"] = f"<{message.id}@braid>"
    mail.set_content(text_of(message) + "\n")
    host, _, port = config.server.rpartition(":")
    with _smtp(host.strip("[]"), int(port), tls=config.tls) as server:
        if config.user:
            server.login(config.user, read_secret(config.password, environ))
        refused = server.send_message(mail)
    if refused:
        raise NotTaken(f"refused for {', '.join(sorted(refused))}")
    return "accepted"


def _smtp(host: str, port: int, *, tls: bool) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if port == smtplib.SMTP_SSL_PORT and tls:
        return smtplib.SMTP_SSL(host, port, timeout=ALERT_ANSWERED_WITHIN_S, context=context)
    server = smtplib.SMTP(host, port, timeout=ALERT_ANSWERED_WITHIN_S)
    if tls:
        server.starttls(context=context)
    return server

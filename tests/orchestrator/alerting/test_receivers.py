"""Every kind of receiver, as people have them; and that nobody is told a secret."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from orchestrator.alerting.heartbeat import Heartbeat
from orchestrator.alerting.message import Message, json_of, message_of, subject_of, text_of
from orchestrator.alerting.receivers import NotTaken, Receiver, receivers_of, words_of
from orchestrator.alerting.state import News
from orchestrator.alerts_config import AlertsConfig, EmailConfig
from orchestrator.health.conditions import Condition, Kind, Severity
from orchestrator.node.processes import look_at
from tests.orchestrator.alerting.fake_smtp import taking_mail
from tests.orchestrator.alerting.receiving import HANG_UP, TOKEN, FakeReceiver, receiving
from tests.orchestrator.alerting.watched import RUN
from tests.orchestrator.node.waiting import wait_for

KILLED = Condition(
    key="incident-1",
    kind=Kind.INCIDENT,
    severity=Severity.WARNING,
    line="attempt 1 ended after step 33: killed on B, rank 1: killed by SIGKILL",
    command="braid logs first --rank 1 --attempt 1",
    attempt=1,
    step=33,
    cause="killed",
    node="b",
    machine="B",
    rank=1,
)
BEGAN = News(number=2, at_s=1000.0, condition=KILLED, began_at_s=1000.0)
OVER = replace(BEGAN, number=4, at_s=1003.5, over="training again after 3.5 s")
STORAGE = StorageConfig(root="s3://bucket/my runs", endpoint_url="http://s3.local:9000")
STUCK = replace(
    BEGAN, number=3, condition=replace(KILLED, key="stuck", kind=Kind.STUCK, severity=Severity.CRITICAL, line="no step", rank=None)
)


def message(*news: News) -> Message:
    return message_of(RUN, news or (BEGAN,), STORAGE)


def the_only(alerts: AlertsConfig, **environ: str) -> Receiver:
    (receiver,) = receivers_of(alerts, environ)
    return receiver


@pytest.fixture
def server() -> Iterator[FakeReceiver]:
    with receiving() as server:
        yield server


# --- what is said ------------------------------------------------------------------------------------------------------


def test_a_text_says_what_it_is_and_what_to_type():
    assert text_of(message()) == (
        "first: WARNING: attempt 1 ended after step 33: killed on B, rank 1: killed by SIGKILL\n"
        "    braid logs first --rank 1 --attempt 1 --storage 's3://bucket/my runs' --endpoint-url http://s3.local:9000"
    )
    assert text_of(message(OVER)) == (
        "first: OVER: training again after 3.5 s. It was: attempt 1 ended after step 33: killed on B, rank 1: killed by SIGKILL"
    )


def test_the_worst_comes_first_and_what_is_over_last():
    told = message(BEGAN, STUCK, replace(OVER, condition=replace(KILLED, key="incident-0")))
    assert [(one.condition.key, bool(one.over)) for one in told.news] == [("stuck", False), ("incident-1", False), ("incident-0", True)]
    assert subject_of(told) == "[braid] first: CRITICAL: no step (and 2 more)"


def test_the_json_has_the_fields_that_a_program_asks_for():
    told = json.loads(json.dumps(json_of(message())))
    assert (told["version"], told["id"], told["run"], told["run_id"], told["text"]) == (
        1,
        "first@abc-2",
        "first",
        "abc",
        text_of(message()),
    )
    (alert,) = told["alerts"]
    assert {key: alert[key] for key in ("key", "kind", "state", "severity", "cause", "machine", "node", "rank", "attempt", "step")} == {
        "key": "first@abc-incident-1", "kind": "incident", "state": "began", "severity": "warning", "cause": "killed", "machine": "B",
        "node": "b", "rank": 1, "attempt": 1, "step": 33,
    }  # fmt: skip
    assert (alert["began_at"], alert["at"]) == ("1970-01-01T00:16:40.000+00:00", "1970-01-01T00:16:40.000+00:00")


def test_what_an_error_says_can_not_add_lines_or_control_characters():
    evil = replace(BEGAN, condition=replace(KILLED, line="died\r\nBcc: all@example.org\x1b[2J" + "x" * 5000))
    assert len(text_of(message(evil)).splitlines()) == 2
    assert len(text_of(message(evil))) < 1000
    assert "\x1b" not in text_of(message(evil)) + subject_of(message(evil))


# --- who takes it ------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_json(server: FakeReceiver):
    assert the_only(AlertsConfig(webhooks=("env:HOOK",)), HOOK=server.url).send(message()) == "HTTP 200 OK"
    assert server.got == [json_of(message())]


def test_slack_gets_text_that_calls_nobody(server: FakeReceiver):
    evil = replace(BEGAN, condition=replace(KILLED, line="died of <!channel> & <http://evil|this>"))
    the_only(AlertsConfig(slack=("env:SLACK",)), SLACK=server.url).send(message(evil))
    (got,) = server.got
    assert [*got] == ["text"]
    assert "died of &lt;!channel&gt; &amp; &lt;http://evil|this&gt;" in got["text"]


def test_an_address_may_be_in_a_file_and_is_read_when_it_is_needed(server: FakeReceiver, tmp_path: Path):
    receiver = the_only(AlertsConfig(webhooks=(f"file:{tmp_path}/hook",)))
    with pytest.raises(NotTaken, match=f"^file:{tmp_path}/hook: can't be read: No such file or directory$"):
        receiver.send(message())
    (tmp_path / "hook").write_text(f"{server.url}\n")
    receiver.send(message())
    assert len(server.got) == 1


def test_a_command_gets_the_text_and_the_fields(tmp_path: Path):
    program = "import json, os, sys; json.dump([sys.stdin.read(), dict(os.environ)], open(sys.argv[1], 'w'))"
    receiver = the_only(AlertsConfig(commands=(f'{sys.executable} -c "{program}" {tmp_path}/out',)), PATH="/bin")
    assert receiver.name == f"command {sys.executable}", "its arguments are nobody's business"
    assert receiver.send(message()) == "exit status 0"
    text, environ = json.loads((tmp_path / "out").read_text())
    assert text == text_of(message()) + "\n"
    told = {name.removeprefix("BRAID_ALERT_"): value for name, value in environ.items() if name.startswith("BRAID_ALERT_")}
    assert {name: told[name] for name in ("ID", "RUN", "KIND", "STATE", "SEVERITY", "CAUSE", "MACHINE", "RANK", "NUM_ALERTS")} == {
        "ID": "first@abc-2", "RUN": "first", "KIND": "incident", "STATE": "began", "SEVERITY": "warning", "CAUSE": "killed",
        "MACHINE": "B", "RANK": "1", "NUM_ALERTS": "1",
    }  # fmt: skip


@pytest.mark.parametrize(("command", "words"), [("false", "exit status 1"), ("/no/such/program", "No such file or directory")])
def test_a_command_that_fails(command: str, words: str):
    with pytest.raises(NotTaken, match=f"^{words}$"):
        the_only(AlertsConfig(commands=(command,)), PATH="/bin:/usr/bin").send(message())


def test_a_command_that_does_not_end_is_killed_with_all_that_it_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("orchestrator.alerting.receivers.ALERT_COMMAND_WITHIN_S", 0.2)
    receiver = the_only(AlertsConfig(commands=(f"sh -c 'sleep 600 & echo $! > {tmp_path}/pid; wait'",)), PATH="/bin:/usr/bin")
    with pytest.raises(NotTaken, match=r"^did not end within 0.2 s, and was killed$"):
        receiver.send(message())
    child = int((tmp_path / "pid").read_text())
    wait_for(lambda: look_at(child) is None, "the end of what it began")


def test_a_mail():
    with taking_mail() as server:
        config = EmailConfig(to=("ops@example.org", "ada@example.org"), sender="braid@example.org", server=server.address, tls=False)
        receiver = the_only(AlertsConfig(emails=(config,)))
        assert (receiver.name, receiver.send(message())) == ("email ops@example.org, ada@example.org", "accepted")
        mail = message_from_string(server.mails[0], policy=default)
        assert (mail["To"], mail["From"], mail["Subject"]) == (
            "ops@example.org, ada@example.org",
            "braid@example.org",
            subject_of(message()),
        )
        assert mail.get_content().strip() == text_of(message())


def test_a_mail_that_is_refused_is_told_by_number():
    with taking_mail(refuses="MAIL") as server:
        config = EmailConfig(to=("ops@example.org",), sender="braid@example.org", server=server.address, tls=False)
        with pytest.raises(NotTaken, match=r"^SMTP 554 \(SMTPSenderRefused\)$"):
            the_only(AlertsConfig(emails=(config,))).send(message())


def test_receivers_have_names_of_their_own():
    alerts = AlertsConfig(webhooks=("env:A", "env:B"), slack=("env:A",), commands=("page --loud", "page --quiet"))
    names = [one.name for one in receivers_of(alerts, {})]
    assert names == ["webhook env:A", "webhook env:B", "slack env:A", "command page", "command page (5)"]


# --- no secret is told -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        f"ftp://host/{TOKEN}",
        f"https:///{TOKEN}",
        f"http://[{TOKEN}/",
        f"http://127.0.0.1:{TOKEN}/",
        f"http://127.0.0.1:1/{TOKEN}",
        f"http://{TOKEN}.invalid/",
        f"http://127.0.0.1:1/{TOKEN} {TOKEN}",
        f"http://user:{TOKEN}@127.0.0.1:1/",
        TOKEN,
        f"http://127.0.0.1:1/\u00e9{TOKEN}",
    ],
)
def test_an_address_that_leads_nowhere_is_not_told(address: str):
    with pytest.raises(NotTaken) as raised:
        the_only(AlertsConfig(webhooks=("env:HOOK",)), HOOK=address).send(message())
    assert TOKEN not in str(raised.value)
    assert TOKEN.lower() not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "nor by a traceback"


@pytest.mark.parametrize(
    ("answer", "words"), [(404, "HTTP 404 Not Found"), (302, "HTTP 302 Found"), (599, "HTTP 599"), (HANG_UP, "RemoteDisconnected")]
)
def test_a_server_that_takes_nothing(server: FakeReceiver, answer: int, words: str):
    server.answers.append(answer)
    with pytest.raises(NotTaken, match=f"^{words}$"):
        the_only(AlertsConfig(webhooks=("env:HOOK",)), HOOK=server.url).send(message())
    assert len(server.asked) == 1, "no redirect is followed: what is sent to one address is for no other"


def test_words_of_errors_of_others():
    assert words_of(urllib.error.URLError(TimeoutError(TOKEN))) == "no answer in time"
    assert words_of(ssl.SSLCertVerificationError(1, f"certificate of {TOKEN}")).startswith("TLS failed (")
    assert words_of(ValueError(TOKEN)) == "ValueError"


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"webhooks": (f"https://x/{TOKEN}",)}, "alerts.webhooks: say where the secret is kept, not the secret: env:NAME or file:/PATH"),
        ({"slack": ("env:A", TOKEN)}, r"alerts.slack\[1\]: say where"),
        ({"heartbeat": f"https://x/{TOKEN}"}, "alerts.heartbeat: say where"),
        ({"commands": ("page 'ops",)}, r"alerts.commands\[0\]: is no program"),
        ({"max_per_hour": 0}, "alerts.max_per_hour=0: must be at least 1"),
        ({"stuck_after_s": 0.0}, "alerts.stuck_after_s=0: must be above 0"),
        ({"pace_below": 1.0}, "alerts.pace_below=1: use a part from 0"),
    ],
)
def test_a_section_that_can_not_be_meant_is_one_line_without_the_secret(section: dict[str, object], line: str):
    with pytest.raises(ValueError, match=line) as raised:
        AlertsConfig(**section)  # type: ignore[arg-type]
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"to": ()}, "to and sender take addresses"),
        ({"sender": "a@b.c\nBcc: x@y.z"}, "to and sender take addresses"),
        ({"server": "smtp.example.org"}, "use HOST:PORT"),
        ({"user": "braid"}, "user and password go together"),
        ({"user": "braid", "password": TOKEN}, "alerts.emails.password: say where"),
        ({"user": "braid", "password": "env:P", "tls": False}, "in the clear"),
    ],
)
def test_a_mail_that_can_not_be_meant(changes: dict[str, object], line: str):
    known: dict[str, object] = {"to": ("ops@example.org",), "sender": "braid@example.org", "server": "smtp.example.org:587"}
    with pytest.raises(ValueError, match=line):
        EmailConfig(**{**known, **changes})  # type: ignore[arg-type]


# --- the dead-man's switch ---------------------------------------------------------------------------------------------


def test_a_switch_is_asked_with_nothing_in_it_while_the_controller_looks(server: FakeReceiver):
    sign: list[float | None] = [None]
    heart = Heartbeat("env:SWITCH", every_s=60.0, environ={"SWITCH": server.url}, sign=lambda: sign[0])
    heart.beat()
    assert server.asked == [], "it has not looked yet"
    for at_s in (1.0, 2.0, 2.0, 2.0):
        sign[0] = at_s
        heart.beat()
    assert [method for method, _ in server.asked] == ["GET", "GET"], "a controller that looks no more is as good as dead"
    assert heart.trouble == ""


def test_a_switch_that_is_not_reached_is_told_without_its_address(server: FakeReceiver):
    environ = {"SWITCH": server.url}
    heart = Heartbeat("env:SWITCH", every_s=60.0, environ=environ, sign=iter(range(9)).__next__)
    server.answers.append(404)
    heart.beat()
    assert heart.trouble == "alerts: heartbeat env:SWITCH was not taken: HTTP 404 Not Found"
    heart.beat()
    assert heart.trouble == ""
    environ["SWITCH"] = f"http://127.0.0.1:{TOKEN}/"
    heart.beat()
    assert heart.trouble == "alerts: heartbeat env:SWITCH was not taken: InvalidURL"
    del environ["SWITCH"]
    heart.beat()
    assert heart.trouble == "alerts: heartbeat env:SWITCH was not taken: env:SWITCH: is not set"

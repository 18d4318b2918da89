"""A store that does not answer is told in one line in less than half a minute, by commands that write too."""

from types import SimpleNamespace

import pytest

from data_pipeline.store import s3
from tests.data_pipeline.store.s3_world import set_credentials
from tests.data_pipeline.store.test_retry import FakeTime
from tests.launch.command_line import Braid

ENDPOINT = "http://127.0.0.1:1"
WHERE = ("--storage", "s3://nowhere/at-all", "--endpoint-url", ENDPOINT)


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "tiny", "storage.root=s3://nowhere/at-all", f"storage.endpoint_url={ENDPOINT}"),
        ("stop", "first", *WHERE),
        ("resume", "first", *WHERE),
        ("repair", "first", *WHERE),
        ("checkpoints", "first", "--trust", "3", *WHERE),
        ("nodes", "clear", "a", *WHERE),
        ("data", "build", "mine", *WHERE),
        ("data", "show", "first", "--step", "1", *WHERE),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_an_endpoint_that_is_dead_is_one_line_in_less_than_30_s(
    command: tuple[str, ...], braid: Braid, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_credentials(monkeypatch, "key", "secret")
    fake = FakeTime()
    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=fake.clock, sleep=fake.sleep))

    done = braid(*command)

    assert done.status == 2
    assert f"no answer from {ENDPOINT}" in done.err
    assert done.err.rstrip().endswith("s: check storage.endpoint_url, the network and the server")
    assert done.err.count("\n") == 1
    assert 0 < sum(fake.slept_s) < 30

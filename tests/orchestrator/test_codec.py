"""Configs and messages survive their JSON, and what is not theirs is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pytest

from model.train.metrics import StepMetrics
from orchestrator import codec
from orchestrator.messages import Beat, Committed, Ended, Failed, Outcome, Phase, Resumed, decode, encode


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    colour: Colour = Colour.RED
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    number: float
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner | None = None
    by_name: dict[str, Inner] | None = None


def test_nested_values_survive_bit_for_bit():
    value = Outer(number=0.1 + 0.2, mode="slow", inner=Inner(words=("a", "b")), by_name={"x": Inner()})
    assert codec.from_json(Outer, codec.to_json(value)) == value


@pytest.mark.parametrize(
    ("json", "line"),
    [
        (b"{", "Outer: not JSON"),
        pytest.param(b"[" * 10**5, "Outer: not JSON (nested too deep)", id="deep"),
        (b"[]", "Outer: expected an object, found list"),
        (b'{"number": "1"}', "Outer.number: expected float, found '1'"),
        (b'{"number": true}', "Outer.number: expected float, found True"),
        (b'{"number": 1, "mode": "odd"}', "Outer.mode: 'odd' is none of fast, slow"),
        (b'{"number": 1, "colour": 2}', "Outer.colour: unknown field"),
        (b'{"number": 1, "inner": {"colour": "blue"}}', "Outer.inner.colour: 'blue' is none of red"),
        (b'{"number": 1, "inner": {"words": "ab"}}', "Outer.inner.words: expected a list, found str"),
        (b"{}", "Outer: "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(json: bytes, line: str):
    with pytest.raises(codec.DecodeError) as refusal:
        codec.from_json(Outer, json)
    assert str(refusal.value).startswith(line)


@pytest.mark.parametrize(
    "message",
    [
        Beat(phase=Phase.TRAINING, step=3, metrics=StepMetrics(loss=2.5, grad_norm=0.5, tokens=64), tokens_per_s=1e4),
        Resumed(step=40, rejected=("step 60: digest",)),
        Committed(step=9),
        Ended(outcome=Outcome.STOPPED, step=7),
        Failed(error_type="ValueError", text="no\u2028newline"),
    ],
)
def test_messages_are_one_line_each(message):
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("line", [b"", b"garbage\n", b'{"kind": "Nonsense"}\n', b"[1]\n", b'{"kind": "Committed", "step": "x"}\n'])
def test_a_line_that_no_worker_wrote_is_refused(line: bytes):
    with pytest.raises(codec.DecodeError):
        decode(line)

"""What a step measures is declared once: one field more shows everywhere, and today's words are as they always were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model.train.metrics import StepMetrics, in_status, log_words, status_words

MEASURED = StepMetrics(loss=2.5, grad_norm=0.25, tokens=64)


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """What `one_more_metric` prints, by the word before the colon."""
    command = [sys.executable, "-m", "tests.orchestrator.one_more_metric"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("log", "entropy 0.125"),
        ("beat", "entropy=0.125"),
        ("report", "entropy=0.125"),
        ("status", "'loss': 2.5, 'eval_loss': None, 'eval_bits_per_byte': None, 'entropy': 0.125, 'tokens_per_s': 100.0"),
        ("line", "loss 2.5000, entropy 0.12"),
        ("view", "loss 2.5000  entropy 0.12"),
        ("ledger", '"entropy":0.125,"grad_norm":1.0'),
        ("recorded", "'loss': 2.5, 'eval_loss': None, 'eval_bits_per_byte': None, 'entropy': 0.125, 'tokens_per_s': None"),
    ],
)
def test_a_metric_that_is_declared_is_everywhere(shown: dict[str, str], place: str, words: str):
    assert words in shown[place]


def test_the_words_of_todays_metrics():
    assert "  ".join(log_words(MEASURED)) == "loss 2.50000  grad norm 0.2500"
    assert in_status(MEASURED) == {"loss": 2.5, "eval_loss": None, "eval_bits_per_byte": None}
    assert status_words(in_status(MEASURED)) == ["loss 2.5000"]


def test_before_the_first_step_nothing_is_known():
    assert in_status(None) == {"loss": None, "eval_loss": None, "eval_bits_per_byte": None}
    assert status_words(in_status(None)) == []


def test_the_status_of_a_controller_that_does_not_know_a_metric_yet_is_shown_without_it():
    assert status_words({}) == []

"""What a training step measures, and how people are shown it. No torch.

A new metric is a field of StepMetrics and its value in `model.train.step`: beats, reports and the step ledger take StepMetrics whole,
`braid status` and what is printed walk over the fields that have words. Give it a default, so that older records can still be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

STATUS = "status"
"""Key of a field's metadata: its words in `braid status`, such as "loss {:.4f}". A field without them is not part of the status."""
LOG = "log"
"""Key of a field's metadata: its words in the line that a worker logs after each step. A field without them is not logged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """What a step did; the same on every rank."""

    loss: float = field(metadata={STATUS: "loss {:.4f}", LOG: "loss {:.5f}"})
    """Mean cross-entropy per valid token of the global batch, before the update; records of earlier versions hold it with the z-loss."""
    grad_norm: float = field(metadata={LOG: "grad norm {:.4f}"})
    """Global L2 norm before clipping."""
    tokens: int
    """Valid tokens of the global batch."""
    z_loss: float | None = field(default=None, metadata={LOG: "z-loss {:.5f}", "omit_default": True})
    """Mean z-loss per valid token, which training minimises beside the cross-entropy; None in records of earlier versions."""
    eval_loss: float | None = field(default=None, metadata={STATUS: "eval {:.4f}", LOG: "eval {:.5f}", "omit_default": True})
    """Mean cross-entropy per token of held-out text after the update; None at steps that don't look at it."""
    eval_bits_per_byte: float | None = field(
        default=None, metadata={STATUS: "{:.4f} bits/byte", LOG: "{:.4f} bits/byte", "omit_default": True}
    )
    """The same per byte of that text; None where its dataset does not know its bytes."""
    skipped: bool = False
    """The update was left out, as a spike (see `model.train.spikes`) or since it is not finite: parameters and optimizer are as before."""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient norm are numbers. An update of those that are not is withheld."""
        return all(map(math.isfinite, (self.loss, self.grad_norm, self.z_loss or 0.0)))


def in_status(metrics: StepMetrics | None) -> dict[str, Any]:
    """What `braid status` says of a step, by name; None for each where there was no step."""
    return {name: getattr(metrics, name, None) for name in _words(STATUS)}


def status_words(status: Mapping[str, Any]) -> list[str]:
    """What people read of a status that has the values of `in_status`, one text for each value that is known."""
    return [words.format(status[name]) for name, words in _words(STATUS).items() if status.get(name) is not None]


def log_words(metrics: StepMetrics) -> list[str]:
    """What people read of a step in a worker's log."""
    return [words.format(value) for name, words in _words(LOG).items() if (value := getattr(metrics, name)) is not None]


def _words(key: str) -> dict[str, str]:
    """By name of the field."""
    return {one.name: one.metadata[key] for one in fields(StepMetrics) if key in one.metadata}

"""The status of a run as plain data: what a controller answers, what the store tells without one, and what `--json` prints."""

from typing import Any

Status = dict[str, Any]
"""The keys are those of orchestrator.control.status.build_status."""

ENDED = ("finished", "failed", "stopped")
"""States of a run in which nothing changes any more, unless it is resumed."""

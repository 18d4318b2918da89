"""The status of a run as plain data: what a controller answers, what the store tells without one, and what `--json` prints."""

from typing import Any

Status = dict[str, Any]
"""The keys are KEYS and what every step measures, those of orchestrator.control.status.build_status.

`alerts` are the things that a person should see to, one line each, worded the same for as long as they hold. `workers` is one page of them
by rank, of `num_workers` in all; `hosts` is the hardware below those workers;
`nodes` and `strikes` go by machine.
"""

KEYS = frozenset(
    [
        "run",
        "state",
        "reason",
        "alerts",
        "attempt",
        "step",
        "num_steps",
        "tokens",
        "tokens_per_s",
        "skipped_updates",
        "data",
        "last_committed_step",
        "rejected_checkpoints",
        "live",
        "seen_s_ago",
        "nodes",
        "spares",
        "standbys",
        "strikes",
        "cordoned",
        "num_workers",
        "workers",
        "hosts",
        "restarts",
        "num_incidents",
        "incidents",
    ]
)
ENDED = ("finished", "failed", "stopped")
"""States of a run in which nothing changes any more, unless it is resumed."""

"""All that is to be said of a run, at once: what a colleague gets when it is over. From the store alone."""

import math
from typing import Any

from launch.errors import WrongMoment
from launch.runs.goodput import answer, read_goodput, timeline_shares
from launch.runs.incidents import incident_of
from launch.runs.inspect import list_checkpoints, proof_of
from launch.runs.record import RunRecord, recorded_status
from launch.ui.curves import curves_of
from launch.ui.ledger import LedgerColumns
from orchestrator import codec

CURVE_WIDTH = 560
PICTURE_PARTS = 1152
INCIDENTS_TOLD = 100
"""The newest; each takes reading logs."""


def report_of(record: RunRecord, *, now_s: float) -> dict[str, Any]:
    """JSON-ready. Raises StoreError, JournalBroken, DecodeError, DatasetMissing, ManifestInvalid."""
    found = read_goodput(record, now_s=now_s)
    steps = LedgerColumns().read(record).newest
    numbers = range(1, len(record.state.incidents) + 1)[-INCIDENTS_TOLD:]
    return {
        "run": record.name,
        "written_at_s": now_s,
        "status": recorded_status(record, now_s),
        "proof": _proof(record),
        "goodput": answer(found),
        "shares": timeline_shares(found, PICTURE_PARTS),
        "curves": curves_of(steps, x="step", first=-math.inf, last=math.inf, width=CURVE_WIDTH)["curves"],
        "incidents": [incident_of(record, number) for number in numbers],
        "checkpoints": list_checkpoints(record.run_store),
        "configuration": codec.to_plain(record.config),
    }


def _proof(record: RunRecord) -> dict[str, Any]:
    """`ok` is null where there is nothing to prove yet."""
    try:
        proof = proof_of(record)
    except WrongMoment as error:
        return {"ok": None, "line": str(error)}
    return {"ok": proof.ok, "line": proof.line}

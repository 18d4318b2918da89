"""What one looks at first at 3 a.m., in that order: a verdict, a line, and at the end the one command to type. Pure."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from launch.status import ENDED, Status
from launch.ui.curves import Column
from launch.units import count

STILL_AFTER_STEPS = 10
"""Steps' time without one after which a run does not look as if it moved; nothing is said before STILL_AFTER_S."""
STILL_AFTER_S = 10.0
OWN_RANGE_STEPS = 1000
FAR_OUT = 6.0
"""Deviations, of the kind that outliers do not widen, above the middle of the last steps: beyond it a number is out of its own range."""
SLOW = 0.8
"""Below this part of its usual pace a run is slow."""
MIN_STEPS = 20
"""Fewer say nothing of a range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    key: str
    label: str
    verdict: str
    """good, watch, bad, or unknown."""
    text: str
    """`{age}` in it stands for `age_s`, which a page counts on."""
    age_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """All that is known of a run beside its status."""

    step_s: float | None
    """What a step usually takes."""
    committed_age_s: float | None
    restarts_in_row: int
    max_restarts: int
    steps: Mapping[str, Column]
    hint: str
    """Options that let a command find the store."""


def glance(status: Status, seen: Seen) -> list[dict[str, Any]]:
    """JSON-ready facts."""
    if status["state"] == "weights":
        return []
    facts = (
        _moving(status, seen),
        _recovering(status, seen),
        _at_stake(status, seen),
        _number("loss", "Loss", seen),
        _number("grad_norm", "Gradient norm", seen),
        _pace(status, seen),
        _culprit(status),
        _spares(status),
    )
    return [asdict(fact) for fact in facts]


def time_left_s(status: Status, step_s: float | None) -> float | None:
    """At the usual pace; None for a run that does not train, or whose pace nobody knows."""
    return None if step_s is None or status["state"] in ENDED else (status["num_steps"] - status["step"]) * step_s


def command_for(status: Status, hint: str) -> dict[str, str]:
    """What to type now, and why."""
    run, state = status["run"], status["state"]
    newest = status["incidents"][-1] if status["incidents"] else None
    if state == "finished":
        return {"command": f"braid verify {run}{hint}", "why": "finished: prove from its records that no sample was lost or repeated"}
    if state == "stopped":
        return {"command": f"braid resume {run}{hint}", "why": "stopped: this goes on from the last checkpoint"}
    if state == "failed" and newest is not None:
        rank = f" --rank {newest['rank']}" if newest["rank"] is not None else ""
        return {
            "command": f"braid logs {run}{rank} --attempt {newest['attempt']}{hint}",
            "why": f"failed ({newest['cause']}): read its last words",
        }
    if state == "failed":
        return {"command": f"braid resume {run}{hint}", "why": "failed: once the reason above is put right, this goes on"}
    if not status["live"]:
        return {"command": f"braid resume {run}{hint}", "why": "no controller answers: if its cluster is gone, this continues the run"}
    if state == "queued" or (state == "recovering" and not status["workers"]):
        return {"command": "braid nodes" + hint, "why": "it waits: see which machines there are, and which are cordoned"}
    return {"command": f"braid status {run} --watch{hint}", "why": "nothing needs to be done; this follows it in a terminal"}


def _moving(status: Status, seen: Seen) -> Fact:
    state, workers, age_s = status["state"], status["workers"], None
    if state in ENDED:
        verdict, text = {"finished": "good", "failed": "bad"}.get(state, "watch"), f"It has ended: {state}."
    elif not status["live"]:
        verdict, text = "unknown", "Nobody can say: no controller answers, and the store has only what was."
    elif not workers:
        verdict, text = "watch", f"No worker is at work: {state}."
    else:
        age_s = min(worker["last_progress_s"] for worker in workers)
        usual = "its usual step time is not known yet" if seen.step_s is None else f"a step usually takes {seen.step_s:.2f} s"
        is_still = age_s > max(STILL_AFTER_S, STILL_AFTER_STEPS * (seen.step_s or 0.0))
        verdict, text = "bad" if is_still else "good", f"Last progress {{age}} ago; {usual}."
    return Fact(key="moving", label="Is it moving?", verdict=verdict, text=text, age_s=age_s)


def _recovering(status: Status, seen: Seen) -> Fact:
    left = max(0, seen.max_restarts - seen.restarts_in_row)
    tries = f"attempt {status['attempt']}, {count(status['restarts'], 'restart')} so far, {left} more in a row before it gives up"
    if status["state"] == "recovering":
        verdict, text = "watch" if left else "bad", f"Yes, by itself: {tries}."
    elif status["state"] in ENDED:
        verdict, text = "bad" if status["state"] == "failed" else "good", f"No, it has ended: {tries}."
    else:
        verdict, text = "good", f"It need not: {tries}."
    return Fact(key="recovering", label="Is it recovering?", verdict=verdict, text=text)


def _at_stake(status: Status, seen: Seen) -> Fact:
    newest, age_s = status["last_committed_step"], seen.committed_age_s
    if not newest:
        verdict, text = "watch", f"No checkpoint counts yet; {count(status['step'], 'step')} of work."
    else:
        when = "" if age_s is None else ", from {age} ago"
        text = f"The newest verified checkpoint is of step {newest:,}{when}; {count(status['step'] - newest, 'step')} since then."
        verdict = "watch" if status["rejected_checkpoints"] else "good"
    return Fact(key="at_stake", label="What would be lost?", verdict=verdict, text=text, age_s=age_s if newest else None)


def _number(key: str, label: str, seen: Seen) -> Fact:
    """The newest value of a column beside its own last ones."""
    values = seen.steps[key]
    verdict, text = "unknown", "No step is recorded yet."
    if len(values):
        newest, step, before = float(values[-1]), int(seen.steps["step"][-1]), values[-1 - OWN_RANGE_STEPS : -1]
        verdict, beside = _in_range(newest, before[np.isfinite(before)])
        text = f"{newest:.4f} at step {step:,}; {beside}."
    return Fact(key=key, label=label, verdict=verdict, text=text)


def _in_range(newest: float, before: Column) -> tuple[str, str]:
    """(verdict, the range in words)."""
    if not math.isfinite(newest):
        return "bad", "it is no number"
    if len(before) < MIN_STEPS:
        return "unknown", f"{count(len(before), 'step')} before it say nothing of its range yet"
    middle = float(np.median(before))
    spread = max(1.4826 * float(np.median(np.abs(before - middle))), 1e-3 * abs(middle), 1e-12)
    low, high = float(np.min(before)), float(np.max(before))
    told = f"{low:.4f} … {high:.4f} over the {count(len(before), 'step')} before, {middle:.4f} in the middle"
    return "watch" if newest - middle > FAR_OUT * spread else "good", told


def _pace(status: Status, seen: Seen) -> Fact:
    now, verdict = status["tokens_per_s"], "unknown"
    if not now:
        text = "Not known at this moment."
    elif seen.step_s is None or not status["step"]:
        text = f"{now:,.0f} tokens/s; its usual pace is not known yet."
    else:
        usual = status["tokens"] / status["step"] / seen.step_s
        verdict, text = "watch" if now < SLOW * usual else "good", f"{now:,.0f} tokens/s, {now / usual:.0%} of its usual {usual:,.0f}."
    return Fact(key="pace", label="Pace", verdict=verdict, text=text)


def _culprit(status: Status) -> Fact:
    verdict, text = "good", "Nothing has gone wrong."
    if status["incidents"]:
        one = status["incidents"][-1]
        where = [f"rank {one['rank']}" if one["rank"] is not None else "", f"node {one['machine'] or one['node']}" if one["node"] else ""]
        told = f"{one['cause']}{''.join(f', {part}' for part in where if part)}, at step {one['at_step']:,}: {one['detail']}"
        verdict, text = "good" if one["recovered_after_s"] is not None else "watch", f"{told}{_answer(one)}."
    return Fact(key="culprit", label="Which rank and node?", verdict=verdict, text=text)


def _answer(incident: Mapping[str, Any]) -> str:
    if incident["recovered_after_s"] is None:
        return "; not recovered from yet"
    where = f"without {', '.join(incident['left'])}" if incident["left"] else "on the same nodes"
    return f"; recovered in {incident['recovered_after_s']:.1f} s from {incident['source']}, {where}"


def _spares(status: Status) -> Fact:
    spares = status["spares"]
    if spares is None:
        return Fact(key="spares", label="Spares", verdict="unknown", text="Not known: no controller answers.")
    text = f"{count(spares, 'node')} free, {count(status['standbys'], 'process')} standing by."
    return Fact(key="spares", label="Spares", verdict="good" if spares else "watch", text=text)

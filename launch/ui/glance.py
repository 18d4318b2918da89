"""What one looks at first at 3 a.m., in that order: a verdict, a line, and at the end the one command to type. Pure."""

import math
from collections.abc import Iterator, Mapping
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
        *_at_stake(status, seen),
        *_numbers(seen),
        _pace(status, seen),
        *_machines(status),
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
    label = "Is it moving?"
    if (state := status["state"]) in ENDED:
        verdict = {"finished": "good", "failed": "bad"}.get(state, "watch")
        return Fact(key="moving", label=label, verdict=verdict, text=f"It has ended: {state}.")
    if not status["live"]:
        return Fact(
            key="moving", label=label, verdict="unknown", text="Nobody can say: no controller answers, and the store has only what was."
        )
    if not status["workers"]:
        return Fact(key="moving", label=label, verdict="watch", text=f"No worker is at work: {state}.")
    still_s = min(worker["last_progress_s"] for worker in status["workers"])
    usual = "its usual step time is not known yet" if seen.step_s is None else f"a step usually takes {seen.step_s:.2f} s"
    is_still = still_s > max(STILL_AFTER_S, STILL_AFTER_STEPS * (seen.step_s or 0.0))
    return Fact(
        key="moving", label=label, verdict="bad" if is_still else "good", text=f"Last progress {{age}} ago; {usual}.", age_s=still_s
    )


def _recovering(status: Status, seen: Seen) -> Fact:
    left = max(0, seen.max_restarts - seen.restarts_in_row)
    tries = f"attempt {status['attempt']}, {count(status['restarts'], 'restart')} so far, {left} more in a row before it gives up"
    if status["state"] == "recovering":
        return Fact(key="recovering", label="Is it recovering?", verdict="watch" if left else "bad", text=f"Yes, by itself: {tries}.")
    if status["state"] in ENDED:
        return Fact(
            key="recovering",
            label="Is it recovering?",
            verdict="bad" if status["state"] == "failed" else "good",
            text=f"No, it has ended: {tries}.",
        )
    return Fact(key="recovering", label="Is it recovering?", verdict="good", text=f"It need not: {tries}.")


def _at_stake(status: Status, seen: Seen) -> Iterator[Fact]:
    label, since = "What would be lost?", status["step"] - status["last_committed_step"]
    if not status["last_committed_step"]:
        yield Fact(key="at_stake", label=label, verdict="watch", text=f"No checkpoint counts yet; {count(status['step'], 'step')} of work.")
        return
    when = "" if seen.committed_age_s is None else ", from {age} ago"
    text = f"The newest verified checkpoint is of step {status['last_committed_step']:,}{when}; {count(since, 'step')} since then."
    verdict = "watch" if status["rejected_checkpoints"] else "good"
    yield Fact(key="at_stake", label=label, verdict=verdict, text=text, age_s=seen.committed_age_s)


def _numbers(seen: Seen) -> Iterator[Fact]:
    for name, label in (("loss", "Loss"), ("grad_norm", "Gradient norm")):
        values = seen.steps[name]
        if len(values) == 0:
            yield Fact(key=name, label=label, verdict="unknown", text="No step is recorded yet.")
            continue
        newest, before = float(values[-1]), values[-1 - OWN_RANGE_STEPS : -1]
        before = before[np.isfinite(before)]
        if not math.isfinite(newest):
            yield Fact(key=name, label=label, verdict="bad", text=f"It is {newest:g} at step {seen.steps['step'][-1]:,.0f}.")
        elif len(before) < MIN_STEPS:
            yield Fact(
                key=name,
                label=label,
                verdict="unknown",
                text=f"{newest:.4f}; {count(len(before), 'step')} before it say nothing of its range yet.",
            )
        else:
            yield _in_range(name, label, newest, before)


def _in_range(name: str, label: str, newest: float, before: Column) -> Fact:
    middle = float(np.median(before))
    spread = max(1.4826 * float(np.median(np.abs(before - middle))), 1e-3 * abs(middle), 1e-12)
    is_out = newest - middle > FAR_OUT * spread
    low, high = float(np.min(before)), float(np.max(before))
    span = f"{low:.4f} … {high:.4f} over the {count(len(before), 'step')} before, {middle:.4f} in the middle"
    return Fact(key=name, label=label, verdict="watch" if is_out else "good", text=f"{newest:.4f}; {span}.")


def _pace(status: Status, seen: Seen) -> Fact:
    label, now = "Pace", status["tokens_per_s"]
    if not now or seen.step_s is None or not status["step"]:
        return Fact(
            key="pace",
            label=label,
            verdict="unknown",
            text="Not known at this moment." if not now else f"{now:,.0f} tokens/s; its usual pace is not known yet.",
        )
    usual = status["tokens"] / status["step"] / seen.step_s
    verdict = "watch" if now < SLOW * usual else "good"
    return Fact(key="pace", label=label, verdict=verdict, text=f"{now:,.0f} tokens/s, {now / usual:.0%} of its usual {usual:,.0f}.")


def _machines(status: Status) -> Iterator[Fact]:
    label = "Which rank and node?"
    if not status["incidents"]:
        yield Fact(key="culprit", label=label, verdict="good", text="Nothing has gone wrong.")
    else:
        one = status["incidents"][-1]
        where = [f"rank {one['rank']}" if one["rank"] is not None else "", f"node {one['machine'] or one['node']}" if one["node"] else ""]
        told = f"{one['cause']}{''.join(f', {part}' for part in where if part)}, at step {one['at_step']:,}: {one['detail']}"
        yield Fact(
            key="culprit", label=label, verdict="good" if one["recovered_after_s"] is not None else "watch", text=f"{told}{_answer(one)}."
        )
    spares = status["spares"]
    text = (
        "Not known: no controller answers."
        if spares is None
        else f"{count(spares, 'node')} free, {count(status['standbys'], 'process')} standing by."
    )
    yield Fact(key="spares", label="Spares", verdict="unknown" if spares is None else "good" if spares else "watch", text=text)


def _answer(incident: Mapping[str, Any]) -> str:
    if incident["recovered_after_s"] is None:
        return "; not recovered from yet"
    where = f"without {', '.join(incident['left'])}" if incident["left"] else "on the same nodes"
    return f"; recovered in {incident['recovered_after_s']:.1f} s from {incident['source']}, {where}"

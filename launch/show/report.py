"""A run's report as one page that needs nothing else: no script, no other file, nothing of the network. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from launch.show.answer_json import answer_json
from launch.show.curve import curve_svg
from launch.show.picture import timeline_svg
from launch.show.render import utc
from launch.units import count, duration, human

TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Tokens/s",
    "data_wait_s": "Wait for data, seconds a step",
    "eval_loss": "Loss of held-out text",
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.2rem; font-size: 1.15rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top; border-bottom: 1px solid #8884; }
pre { overflow-x: auto; padding: .8rem; background: #8881; font-size: .85rem; }
svg { max-width: 100%; height: auto; }
.wide svg { background: white; width: 100%; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.good { color: #2a7d3c; } .bad { color: #c0332b; } .scroll { overflow-x: auto; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_html(report: Mapping[str, Any]) -> str:
    """`report` is what launch.ui.report.report_of returns. All of it that comes from the run is text, never markup."""
    run = escape(report["run"])
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<meta name="viewport" content="width=device-width"><title>{run}</title><style>{STYLE}</style></head><body><main>',
        f"<h1>{run}</h1>",
        *_head(report),
        "<h2>Where the time went</h2>",
        f'<div class="wide">{timeline_svg(report["goodput"], report["shares"])}</div>',
        "<h2>Curves</h2>",
        f'<div class="curves">{"".join(_curves(report["curves"]))}</div>',
        "<h2>Incidents</h2>",
        *_incidents(report["incidents"]),
        "<h2>Checkpoints</h2>",
        _checkpoints(report["checkpoints"]),
        "<h2>Configuration</h2>",
        f"<details><summary>as it was resolved</summary><pre>{escape(answer_json(report['configuration'], indent=1))}</pre></details>",
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _head(report: Mapping[str, Any]) -> Iterable[str]:
    status, proof = report["status"], report["proof"]
    reason = f" ({escape(status['reason'])})" if status["reason"] else ""
    yield f"<p><strong>{escape(status['state'])}</strong>{reason}, written {_utc(report['written_at_s'])} UTC</p>"
    told = f"step {status['step']:,} of {status['num_steps']:,}, {status['tokens']:,} tokens, {count(status['restarts'], 'restart')}"
    yield f"<p>{told}, last checkpoint of step {status['last_committed_step']:,}</p>"
    look = {True: ' class="good"', False: ' class="bad"'}.get(proof["ok"], "")
    yield f"<p{look}>{escape(proof['line'])}</p>"


def _curves(curves: Mapping[str, Mapping[str, Sequence[Any]]]) -> Iterable[str]:
    for name, curve in curves.items():
        yield f"<figure>{curve_svg(TITLES[name], curve['x'], curve['y'])}</figure>"


def _incidents(incidents: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not incidents:
        yield "<p>none</p>"
    for one in incidents:
        where = " ".join(f"{name} {one[key]}" for name, key in (("on", "machine"), ("rank", "rank")) if one[key] is not None)
        yield f"<h3>{one['number']}: {escape(one['cause'])} {escape(where)}, {_utc(one['at_s'])} UTC, after step {one['at_step']:,}</h3>"
        yield f"<p>{escape(one['detail'])}. Seen first by {escape(one['seen_by'])}; {escape(_outcome(one))}.</p>"
        yield _table(("hop", "milliseconds"), ((hop["name"], f"{hop['seconds'] * 1e3:,.0f}") for hop in one["hops"]))
        evidence = one["evidence"]
        lines = [
            *([evidence["missing"]] if evidence["missing"] else []),
            *(f"{each['words']}: {each['where']}" for each in evidence["stacks"]),
        ]
        lines += evidence["first_error"] or evidence["last_lines"]
        if lines:
            yield f"<details><summary>what its workers left written</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def _outcome(one: Mapping[str, Any]) -> str:
    if one["stood_still_s"] is None:
        return "not recovered from"
    again = f"{count(one['steps_replayed'], 'step')} trained again"
    return f"went on from {one['source']} at step {one['resumed_from_step']} after {duration(one['stood_still_s'])}, {again}"


def _checkpoints(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        (f"{one['step']:,}", str(one["attempt"]), f"{human(one['size_bytes'])}B", one["layout"], _utc(one["created_at_s"]), one["state"])
        for one in checkpoints
    )
    return _table(("step", "attempt", "size", "layout", "written (UTC)", "state"), rows) if checkpoints else "<p>none</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _utc(at_s: float | None) -> str:
    return "–" if at_s is None else utc(at_s)

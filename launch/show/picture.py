"""A run's time as a picture: from left to right its parts, each coloured by what it went into, with its failures marked. SVG. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from launch.show.goodput import COLOURS, percent, ratios, span, words

WIDTH, MARGIN, TOP, HEIGHT = 1200, 24, 72, 120
ROW = 20
COLUMNS = 3
"""Of the legend."""


def timeline_svg(answer: Mapping[str, Any], shares: Sequence[Mapping[str, float]]) -> str:
    """`answer` is what launch.runs.goodput.answer returns, `shares` what timeline_shares does, of about a thousand parts."""
    names = [name for name, took_s in answer["classes"].items() if took_s]
    legend_top = TOP + HEIGHT + 44
    height = legend_top + ROW * -(-len(names) // COLUMNS) + MARGIN
    title = f"{answer['run']}: {answer['state']}, {span(answer['wall_s'])}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{MARGIN}" y="28" font-size="17" font-weight="bold">{escape(title)}</text>',
            f'<text x="{MARGIN}" y="48">{escape(ratios(dict(answer)))}</text>',
            *_parts(shares),
            *_failures(answer),
            *_axis(answer["wall_s"]),
            *_legend(answer, names, legend_top),
            "</svg>\n",
        ]
    )


def _parts(shares: Sequence[Mapping[str, float]]) -> list[str]:
    """Equal neighbours are one rectangle per class, the first class of the list on top."""
    width, drawn, place = (WIDTH - 2 * MARGIN) / max(1, len(shares)), [], 0
    for part, group in groupby({name: round(share, 3) for name, share in part.items()} for part in shares):
        number, y = len([*group]), float(TOP)
        for name in (name for name in COLOURS if name in part):
            tall = part[name] * HEIGHT
            x = MARGIN + place * width
            drawn.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{number * width + 0.05:.2f}" height="{tall:.2f}" fill="{COLOURS[name]}"/>')
            y += tall
        place += number
    return drawn


def _failures(answer: Mapping[str, Any]) -> list[str]:
    """A mark above the moment at which each was noticed; what it is shows under the pointer."""
    drawn = []
    for loss in answer["losses"]:
        if loss["at_s"] is not None and answer["wall_s"]:
            part = min(1.0, max(0.0, (loss["at_s"] - answer["submitted_at_s"]) / answer["wall_s"]))
            x = MARGIN + part * (WIDTH - 2 * MARGIN)
            what = f"{words(loss['cause'])} on {loss['machine'] or 'no machine'}, attempt {loss['attempt']}: {span(loss['lost_s'])} lost"
            drawn.append(f'<path d="M{x:.2f} {TOP - 2}l-5 -9h10z" fill="#d9342b"><title>{escape(what)}</title></path>')
    return drawn


def _axis(wall_s: float) -> list[str]:
    drawn = []
    for place, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        x = MARGIN + place * (WIDTH - 2 * MARGIN)
        drawn.append(f'<text x="{x:.0f}" y="{TOP + HEIGHT + 18}" text-anchor="{anchor}" fill="#555">{span(place * wall_s)}</text>')
    return drawn


def _legend(answer: Mapping[str, Any], names: Sequence[str], top: int) -> list[str]:
    drawn, wide = [], (WIDTH - 2 * MARGIN) / COLUMNS
    for place, name in enumerate(names):
        x, y = MARGIN + place % COLUMNS * wide, top + place // COLUMNS * ROW
        took_s = answer["classes"][name]
        told = f"{words(name)}  {span(took_s)}  {percent(took_s / answer['wall_s'])}"
        drawn.append(f'<rect x="{x:.0f}" y="{y - 10}" width="12" height="12" fill="{COLOURS[name]}"/>')
        drawn.append(f'<text x="{x + 18:.0f}" y="{y}">{escape(told)}</text>')
    return drawn

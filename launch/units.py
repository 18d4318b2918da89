"""Numbers as people read them. Pure."""

_PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def human(number: float) -> str:
    """Three digits, a space and a decimal prefix, to be followed by the unit: 1234567 → '1.23 M', 999 → '999 '."""
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def count(number: int, noun: str) -> str:
    """1 pass, 2 passes, 1,000 steps."""
    if number == 1:
        return f"{number:,} {noun}"
    return f"{number:,} {noun}es" if noun.endswith("s") else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """4.2 s, 90 s, 15 min, 3 h 20 min, 2 d 4 h: as exact as one wants to know it."""
    s = max(0.0, seconds)
    if s < 10:
        return f"{s:.1f} s"
    if s < 120:
        return f"{s:.0f} s"
    if s < 7200:
        return f"{s // 60:.0f} min"
    if s < 172_800:
        return f"{s // 3600:.0f} h {s % 3600 // 60:.0f} min"
    return f"{s // 86_400:.0f} d {s % 86_400 // 3600:.0f} h"


def memory_unit(largest_bytes: int) -> tuple[str, int]:
    """(name, bytes) of the unit in which sizes up to this one are told."""
    return ("GiB", 2**30) if largest_bytes >= 2**30 else ("MiB", 2**20)

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


def memory_unit(largest_bytes: int) -> tuple[str, int]:
    """(name, bytes) of the unit in which sizes up to this one are told."""
    return ("GiB", 2**30) if largest_bytes >= 2**30 else ("MiB", 2**20)

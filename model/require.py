"""What the configurations of this package require of numbers, and how they say it. Pure."""

import math
from collections.abc import Sequence


def require_finite(section: str, name: str, value: float | str) -> None:
    """Raises ValueError for a number that is infinite or none at all."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{section}.{name}={value}: must be finite; use an ordinary number")


def require_positive(section: str, name: str, value: float) -> None:
    """Raises ValueError for 0, a negative number, and what is no number."""
    if not value > 0:
        raise ValueError(f"{section}.{name}={value}: must be positive; use {'1 or more' if isinstance(value, int) else 'a number above 0'}")


def one_of(numbers: Sequence[int]) -> str:
    """1, 2 or 4."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last

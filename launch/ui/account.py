"""Where a run's time went, as a page draws it: a few hundred stretches, each with what its time was spent on. Pure."""

from typing import Any

import numpy as np

from orchestrator.health.account import Account
from orchestrator.health.classes import CLASSES

MAX_STRETCHES = 600


def drawn(account: Account, num_stretches: int) -> dict[str, Any]:
    """JSON-ready: seconds by class over the whole run, and of each of the stretches of equal length the share of each class.

    The classes of a stretch add up to 1, and those of the run to `wall_s`.
    """
    num_stretches = max(1, min(num_stretches, MAX_STRETCHES))
    edges = np.linspace(0.0, account.wall_s, num_stretches + 1)
    times = np.append(account.starts_s, account.wall_s)
    lengths_s = account.lengths_s
    shares = {}
    for code, one in enumerate(CLASSES):
        spent_s = np.concatenate([[0.0], np.cumsum(np.where(account.codes == code, lengths_s, 0.0))])
        if spent_s[-1] > 0:
            part = np.diff(np.interp(edges, times, spent_s)) * num_stretches / account.wall_s
            shares[one.value] = part.round(4).tolist()
    classes = {one.value: seconds for one, seconds in account.classes_s.items() if seconds > 0}
    return {"begin_s": account.begin_s, "wall_s": account.wall_s, "classes": classes, "shares": shares}

"""Where the time went, as it is drawn."""

import numpy as np
import pytest

from launch.ui.account import drawn
from orchestrator.health.account import Account
from orchestrator.health.classes import CODES, TimeClass


def test_classes_add_up_in_every_stretch_and_over_the_run() -> None:
    kinds = [TimeClass.QUEUED, TimeClass.PRODUCTIVE, TimeClass.LOST, TimeClass.PRODUCTIVE]
    codes = np.array([CODES[kind] for kind in kinds], dtype=np.int8)
    account = Account(
        begin_s=5.0, wall_s=10.0, final_s=10.0, starts_s=np.array([0.0, 2.5, 6.0, 7.0]), codes=codes, blames=np.zeros(4, dtype=np.int32)
    )
    found = drawn(account, 5)
    assert found["classes"] == {"queued": 2.5, "productive": 6.5, "lost": 1.0}
    assert found["shares"]["queued"] == [1.0, 0.25, 0.0, 0.0, 0.0]
    assert found["shares"]["lost"] == [0.0, 0.0, 0.0, 0.5, 0.0]
    assert [sum(stretch) for stretch in zip(*found["shares"].values(), strict=True)] == pytest.approx([1.0] * 5)

"""What many ask for within a moment is made once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from launch.ui.memo import Memo


def test_it_is_made_once_for_all_who_ask_and_anew_when_it_is_old() -> None:
    now_s, made, let_go = [0.0], [], threading.Event()

    def make() -> int:
        let_go.wait(20.0)
        made.append(1)
        return len(made)

    memo = Memo(3.0, clock=lambda: now_s[0])
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(memo.get, "key", make) for _ in range(8)]
        let_go.set()
        assert [one.result(20.0) for one in asked] == [1] * 8
    now_s[0] = 3.5
    assert memo.get("key", make) == 2
    assert memo.get("other", make) == 3


def test_what_fails_is_not_kept() -> None:
    memo = Memo(3.0)
    with pytest.raises(ZeroDivisionError):
        memo.get("key", lambda: 1 // 0)
    assert memo.get("key", lambda: 7) == 7

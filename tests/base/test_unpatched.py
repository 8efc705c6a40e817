"""Flags, which our threads have instead of ``threading.Event``."""

from __future__ import annotations

import threading

from aiometrics.base.unpatched import Flag


def test_a_flag_is_set_and_cleared() -> None:
    """Setting it twice does no harm, and it can be used again."""
    flag = Flag()
    for _ in range(2):
        assert (False, False) == (flag.is_set(), flag.wait(0.001))
        flag.set()
        flag.set()
        assert (True, True, True) == (flag.is_set(), flag.wait(), flag.wait(0))
        flag.clear()


def test_a_flag_wakes_up_all_who_wait() -> None:
    """However many they are, and with or without a limit."""
    flag, found = Flag(), []
    waiting = [
        threading.Thread(target=lambda limit=limit: found.append(flag.wait(limit)))
        for limit in (None, 300.0) * 8
    ]
    for thread in waiting:
        thread.start()
    flag.set()
    for thread in waiting:
        thread.join()
    assert [True] * 16 == found

"""The clock that everything is timed with: an argument everywhere, so that tests can replace it."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Integer nanoseconds since a fixed, arbitrary point; never goes back.
Clock = Callable[[], int]

#: The same clock in every process of one machine, which lets a reader outside the process judge a page.
monotonic: Clock = time.monotonic_ns

SECOND_NS = 1_000_000_000

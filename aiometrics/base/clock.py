"""The clock that times everything.

It is passed as an argument everywhere, so that tests can replace it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Returns integer nanoseconds since a fixed, arbitrary point; never goes back.
Clock = Callable[[], int]

#: All processes of one machine share this clock, so that a reader in another process can interpret
#: the times in a page.
monotonic: Clock = time.monotonic_ns

SECOND_NS = 1_000_000_000

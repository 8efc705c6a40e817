"""What a forked child must let go of, since it ends only when nobody has it any more, is noted before anybody can fork."""

from __future__ import annotations

import os
import threading

#: Held by who makes such a thing until it is noted, which must be quick, and by who forks.
making = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)

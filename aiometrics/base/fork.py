"""What a forked child must let go of, since it ends only when nobody has it any more, is noted before anybody can fork."""

from __future__ import annotations

import os
import threading

#: Held by who makes such a thing until it is noted, which must be quick, and by who forks.
creation_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=creation_lock.acquire,
        after_in_parent=creation_lock.release,
        after_in_child=creation_lock.release,
    )

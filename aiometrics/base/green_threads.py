"""Whether gevent or eventlet has replaced threads by greenlets of one thread.

A thread of ours must then wait only in ways that they have replaced, too. A wait in C would stop
the whole program.
"""

from __future__ import annotations

import sys


def patched_by() -> tuple[str, str] | None:
    """Return what has replaced threads, and how to tell it to leave them alone."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent", "gevent.monkey.patch_all(thread=False)"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet", "eventlet.monkey_patch(thread=False)"
    return None

"""A thread beside the application, which never keeps the process from ending."""

from __future__ import annotations

import threading

_STOP_SECONDS = 5.0


class Background:
    """A daemon thread of that name, in which :meth:`_run` runs from :meth:`start` until ``_stopping`` is set. It is started once."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End. Waits for what is in progress, but 5 s at the most, and not if it is that which calls."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        raise NotImplementedError

"""The tracer of single requests: at most one in a process, set by the OpenTelemetry integration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.work_queue import Job, WorkQueue
from aiometrics.requests.finished import FinishedRequest

if TYPE_CHECKING:
    from aiometrics.requests.request import Request

PROBE = "request_tracer"
KIND = "trace"


class Tracer(Protocol):
    """Makes traces of requests. It is called in the task of the request, and must be quick."""

    def begin(self, request: Request) -> Any:
        """Return a state for a request that was just entered; ``None`` not to trace it."""

    def recording(self, state: Any) -> bool:
        """Whether the request's steps are to be recorded, and :meth:`end` is to be called."""

    def end(self, state: Any, finished: FinishedRequest) -> Job:
        """Return the job that writes the trace of a finished request, for another thread to run."""

    def leave(self, state: Any) -> None:
        """Called when the block of the request is left."""


class _InstalledTracer:
    """The tracer of requests that are entered from now on; ``None`` if they are not traced."""

    tracer: Tracer | None = None


INSTALLED = _InstalledTracer()


def set_tracer(tracer: Tracer | None) -> None:
    """Trace requests that are entered from now on with ``tracer``.

    With ``None``, do not trace them.
    """
    INSTALLED.tracer = tracer


class Trace:
    """The trace of one request.

    A tracer that raises counts for the probe ``request_tracer``, and is not called for later
    requests.
    """

    __slots__ = ("_internal_errors", "_state", "_tracer", "_work_queue", "recording")

    def __init__(
        self, tracer: Tracer, state: Any, internal_errors: InternalErrors, work_queue: WorkQueue
    ) -> None:
        self._tracer = tracer
        self._state = state
        self._internal_errors = internal_errors
        self._work_queue = work_queue
        #: Whether the steps of the request are recorded, and :meth:`end` is to be called.
        self.recording: bool = tracer.recording(state)

    def end(self, finished: FinishedRequest) -> None:
        """Have the trace of a finished request written. Never raises."""
        with _uninstall_on_error(self._internal_errors):
            self._work_queue.put(KIND, self._tracer.end(self._state, finished))

    def leave(self) -> None:
        """Tell the tracer that the block of the request is left. Never raises."""
        with _uninstall_on_error(self._internal_errors):
            self._tracer.leave(self._state)


def begin_trace(
    request: Request, internal_errors: InternalErrors, work_queue: WorkQueue
) -> Trace | None:
    """Begin the trace of a request that was just entered; ``None`` if it is not to be traced.

    If the trace is recording, the steps of the request are kept from now on. Never raises.
    """
    tracer = INSTALLED.tracer
    if tracer is None:
        return None
    with _uninstall_on_error(internal_errors):
        state = tracer.begin(request)
        if state is None:
            return None
        trace = Trace(tracer, state, internal_errors, work_queue)
        if trace.recording:
            request.keep_timeline()
        return trace
    return None


@contextmanager
def _uninstall_on_error(internal_errors: InternalErrors) -> Iterator[None]:
    """Report what the tracer raises, and call it for no later request."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a tracer must not harm the application
        INSTALLED.tracer = None
        internal_errors.report(PROBE, error)

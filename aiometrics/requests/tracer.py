"""Who makes traces of single requests, if anybody does: one tracer in a process, which OpenTelemetry's integration sets."""

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
    """Makes traces of requests: called in the task of the request, where it must be quick."""

    def begin(self, request: Request) -> Any:
        """What it keeps of a request that was entered just now; ``None`` if that is not to be traced."""

    def recording(self, state: Any) -> bool:
        """Whether it wants to know what the request did, and when it is over."""

    def end(self, state: Any, finished: FinishedRequest) -> Job:
        """The request is over: what to do about it, by another thread."""

    def leave(self, state: Any) -> None:
        """The block of the request is left."""


class _InstalledTracer:
    tracer: Tracer | None = None


#: Who traces requests that are entered from now on.
INSTALLED = _InstalledTracer()


def set_tracer(tracer: Tracer | None) -> None:
    """Have requests that are entered from now on traced by ``tracer``, or by none."""
    INSTALLED.tracer = tracer


class Trace:
    """One request that is traced. A tracer that raises is counted as the probe ``request_tracer``, and asked nothing any more."""

    __slots__ = ("_internal_errors", "_state", "_tracer", "_work_queue", "recording")

    def __init__(
        self, tracer: Tracer, state: Any, internal_errors: InternalErrors, work_queue: WorkQueue
    ) -> None:
        self._tracer = tracer
        self._state = state
        self._internal_errors = internal_errors
        self._work_queue = work_queue
        #: Whether it is to be told of the end.
        self.recording: bool = tracer.recording(state)

    def end(self, finished: FinishedRequest) -> None:
        """The request is over. Never raises."""
        with _uninstall_on_error(self._internal_errors):
            self._work_queue.put(KIND, self._tracer.end(self._state, finished))

    def leave(self) -> None:
        """The block of the request is left. Never raises."""
        with _uninstall_on_error(self._internal_errors):
            self._tracer.leave(self._state)


def begin_trace(
    request: Request, internal_errors: InternalErrors, work_queue: WorkQueue
) -> Trace | None:
    """The trace of a request that was entered just now; if it is recording, its steps are state from now on. ``None`` if nobody wants it.

    Never raises.
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
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the application did not ask for it
        INSTALLED.tracer = None
        internal_errors.report(PROBE, error)

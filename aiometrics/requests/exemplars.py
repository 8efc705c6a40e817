"""The last slow sample of each series, with what leads from it to the request: the request's id, and the trace where there is one."""

from __future__ import annotations

import sys

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.snapshot import Exemplar, encodable
from aiometrics.requests.finished import FinishedRequest
from aiometrics.requests.request import current_request

PROBE = "exemplars"
#: What OpenMetrics allows for all names and values together.
MAX_CHARACTERS = 128

Labels = tuple[tuple[str, str], ...]


class Exemplars:
    """Finds what leads from a slow sample to the request, and to the trace, that it was taken in; asked in the context of its task.

    An error counts as one of the probe ``exemplars``, and no exemplar is found from then on.
    """

    def __init__(self, unix_clock: Clock, internal_errors: InternalErrors) -> None:
        self._unix_clock = unix_clock
        self._internal_errors = internal_errors

    def of_segment(self, segment_ns: int) -> Exemplar | None:
        """The exemplar of a segment that ended just now; ``None`` if nothing leads there. Never raises."""
        current = current_request()
        return self.of(segment_ns, None if current is None else current.id)

    def of(self, value_ns: int, request_id: str | None) -> Exemplar | None:
        """The exemplar of a sample that was taken just now; ``None`` if nothing leads there. Never raises."""
        if self._internal_errors.disabled(PROBE):
            return None
        try:
            labels = exemplar_labels(request_id, current_trace_ids())
            return Exemplar(labels, value_ns, self._unix_clock()) if labels else None
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error)
            return None

    def keep_for_wall_time(self, finished: FinishedRequest) -> None:
        """A request is over that took too long; this is still its context."""
        exemplar = self.of(finished.wall_ns, finished.id)
        if exemplar is not None:
            finished.keep_exemplar(exemplar)


def exemplar_labels(request_id: str | None, trace: tuple[str, str] | None) -> Labels:
    """At most 128 characters of ``trace_id``, ``span_id`` and ``request_id``; of what is too long the span goes first."""
    request = () if request_id is None else (("request_id", encodable(request_id)),)
    if trace is None:
        return _fitting(request)
    trace_id, span_id = ("trace_id", trace[0]), ("span_id", trace[1])
    return (
        _fitting((*request, trace_id, span_id))
        or _fitting((*request, trace_id))
        or (trace_id, span_id)
    )


def current_trace_ids() -> tuple[str, str] | None:
    """The ids of trace and span, in hex, that the program's OpenTelemetry has active here and samples; ``None`` without any."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _fitting(labels: Labels) -> Labels:
    """``labels``, or none if they are too long."""
    return labels if sum(len(name) + len(value) for name, value in labels) <= MAX_CHARACTERS else ()

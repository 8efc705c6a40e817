"""Builds exemplars: a slow sample with the ids of the request and of the trace it was taken in."""

from __future__ import annotations

import sys

from aiometrics.base.clock import Clock
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.pages.snapshot import Exemplar, encodable
from aiometrics.requests.finished import FinishedRequest
from aiometrics.requests.request import current_request

PROBE = "exemplars"
#: OpenMetrics allows this many for all label names and values of an exemplar together.
MAX_CHARACTERS = 128

Labels = tuple[tuple[str, str], ...]


class Exemplars:
    """Builds the exemplar of a sample from the request and the trace of the calling context.

    An internal error counts for the probe ``exemplars``, which then builds no exemplars any more.
    """

    def __init__(self, unix_clock: Clock, internal_errors: InternalErrors) -> None:
        self._unix_clock = unix_clock
        self._internal_errors = internal_errors

    def of_segment(self, segment_ns: int) -> Exemplar | None:
        """The exemplar of a segment that has just ended; ``None`` without request and trace.

        Never raises.
        """
        current = current_request()
        return self.of(segment_ns, None if current is None else current.id)

    def of(self, value_ns: int, request_id: str | None) -> Exemplar | None:
        """The exemplar of a sample that was just taken; ``None`` without request and trace.

        Never raises.
        """
        if self._internal_errors.disabled(PROBE):
            return None
        try:
            labels = exemplar_labels(request_id, current_trace_ids())
            return Exemplar(labels, value_ns, self._unix_clock()) if labels else None
        except Exception as error:  # noqa: BLE001 - never the application's problem
            self._internal_errors.report(PROBE, error)
            return None

    def keep_for_wall_time(self, finished: FinishedRequest) -> None:
        """Keep an exemplar of the wall time of a slow request.

        Called in the context of the request.
        """
        exemplar = self.of(finished.wall_ns, finished.id)
        if exemplar is not None:
            finished.keep_exemplar(exemplar)


def exemplar_labels(request_id: str | None, trace: tuple[str, str] | None) -> Labels:
    """The labels ``request_id``, ``trace_id`` and ``span_id``, within 128 characters.

    If they are longer, the span id is left out; if that is not enough, the request id instead.
    """
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
    """The ids of the trace and the span, in hex, that OpenTelemetry has active in this context.

    ``None`` if the program does not use OpenTelemetry, or the trace is not sampled.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _fitting(labels: Labels) -> Labels:
    """``labels``, or ``()`` if they are too long."""
    return labels if sum(len(name) + len(value) for name, value in labels) <= MAX_CHARACTERS else ()

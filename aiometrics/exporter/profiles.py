"""Answers requests for profiles: since the start, of some seconds, or since the last request."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from aiometrics.base import fork
from aiometrics.base.http.messages import Request, Response
from aiometrics.base.http.server import Route
from aiometrics.base.yielding import Pause
from aiometrics.exporter.debug import Limited, QueryError, choice, parse_query, whole_number
from aiometrics.exposition.profile import Totals, totals_of
from aiometrics.exposition.profile_formats import TYPES, Write, collapsed, pprof, speedscope
from aiometrics.exposition.profile_parents import Lineages, with_parents
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import RECORDER_HAND_OVER

#: The longest profile, and how many are made at a time.
_MOST_SECONDS, _AT_A_TIME = 120, 3
#: Consumers of deltas that are remembered.
_MOST_CONSUMERS, _LONGEST_NAME = 4, 64
#: How often a profile in progress looks whether the exporter stops.
_LOOK_SECONDS = 0.25
#: How often a profile with parents looks at the live tasks meanwhile.
_LINEAGE_SECONDS = 1.0
_OPTIONS = ("by", "format", "parents", "type")
_BY = ("coroutine", "route")
_FORMATS: dict[str, tuple[Write, str]] = {
    "pprof": (pprof, "application/octet-stream"),
    "speedscope": (speedscope, "application/json"),
    "collapsed": (collapsed, "text/plain; charset=utf-8"),
}
_UNCACHED = (("Cache-Control", "no-store"),)
_DOWNLOAD = ("Content-Disposition", 'attachment; filename="profile.pb.gz"')


@dataclass(frozen=True, slots=True)
class _Shape:
    """The form in which a request wants a profile."""

    by: str
    parents: bool
    write: Write
    content_type: str
    download: tuple[str, str] | None


class Profiles:
    """Makes profiles from the snapshots of ``source()``, and ends those in progress at the end.

    ``rest(seconds)`` sleeps in the thread that answers, by a ``clock`` in seconds. ``lineages()``
    returns what counts the live tasks by who created them, if they are those of this process.
    """

    def __init__(
        self,
        source: Callable[[], Snapshot],
        pause: Pause,
        max_connections: int,
        *,
        rest: Callable[[float], object] = RECORDER_HAND_OVER.rest,
        clock: Callable[[], float] = time.monotonic,
        lineages: Callable[[], Callable[[Pause], Lineages]] | None = None,
    ) -> None:
        self._source = source
        self._pause = pause
        self._rest = rest
        self._clock = clock
        self._lineages = lineages
        self._closing = False
        self._consumers: OrderedDict[str, Totals] = OrderedDict()
        self._reset()
        at_a_time = min(_AT_A_TIME, max_connections // 2)
        #: The routes by path.
        self.routes: dict[str, Route] = {
            "/debug/pprof/profile": Limited(self._profile, at_a_time),
            "/debug/pprof/delta": Limited(self._delta, 1),
        }
        fork.forget_in_child(self, fork.Stage.LOCKS, Profiles._reset)

    def close(self) -> None:
        """Let profiles in progress end now, with what there is."""
        self._closing = True

    def _reset(self) -> None:
        """Forget what consumers have, also in a forked child, whose numbers are others."""
        self._consumers.clear()

    def _profile(self, request: Request) -> Response:
        query = parse_query(request.query, {*_OPTIONS, "seconds"})
        shape = self._shape(query)
        seconds = whole_number(query, "seconds", 0, range(1, _MOST_SECONDS + 1))
        earlier = self._totals() if seconds else None
        lineages = self._seen(shape, seconds)
        return self._answer(shape, self._totals(), earlier, lineages)

    def _delta(self, request: Request) -> Response:
        query = parse_query(request.query, {*_OPTIONS, "consumer"})
        shape = self._shape(query)
        consumer = query.get("consumer", "")
        if len(consumer) > _LONGEST_NAME:
            raise QueryError(f"consumer is longer than {_LONGEST_NAME} characters")
        earlier = self._consumers.pop(consumer, None)
        now = self._consumers[consumer] = self._totals()
        if len(self._consumers) > _MOST_CONSUMERS:
            self._consumers.popitem(last=False)
        return self._answer(shape, now, earlier, self._seen(shape, 0))

    def _shape(self, query: Mapping[str, str]) -> _Shape:
        """Return what a query asks for. Raises ``QueryError``."""
        shape = _shape(query)
        if shape.parents and self._lineages is None:
            raise QueryError("parents: this process has none of the tasks")
        return shape

    def _answer(
        self, shape: _Shape, now: Totals, earlier: Totals | None, lineages: Lineages
    ) -> Response:
        """Return the profile of the time since ``earlier``, or since the start."""
        duration_ns = 0 if earlier is None else now.taken_ns - earlier.taken_ns
        counted = now if earlier is None else now.since(earlier)
        by = counted.by_route if shape.by == "route" else counted.by_coroutine
        profile = with_parents(by(duration_ns), lineages) if shape.parents else by(duration_ns)
        body = shape.write(profile, self._pause)
        headers = (*_UNCACHED, *((shape.download,) if shape.download else ()))
        return Response(200, body, shape.content_type, headers)

    def _totals(self) -> Totals:
        return totals_of(self._source())

    def _seen(self, shape: _Shape, seconds: float) -> Lineages:
        """Sleep for so long, and return the lineages of the tasks that lived meanwhile.

        They are looked at only if parents are wanted.
        """
        if not shape.parents or self._lineages is None:
            self._sleep(seconds)
            return {}
        look = self._lineages()
        found = Counter(look(self._pause))
        end = self._clock() + seconds
        while not self._closing and (remaining := end - self._clock()) > 0:
            self._sleep(min(remaining, _LINEAGE_SECONDS))
            found.update(look(self._pause))
        return found

    def _sleep(self, seconds: float) -> None:
        deadline = self._clock() + seconds
        while not self._closing and (remaining := deadline - self._clock()) > 0:
            self._rest(min(remaining, _LOOK_SECONDS))


def _shape(query: Mapping[str, str]) -> _Shape:
    """Return what a query asks for. Raises ``QueryError``."""
    by = choice(query, "by", _BY)
    form = choice(query, "format", tuple(_FORMATS))
    kind = choice(query, "type", tuple(TYPES))
    parents = choice(query, "parents", ("0", "1")) == "1"
    if "type" in query and form != "collapsed":
        raise QueryError(f"type is for format=collapsed: {form} has all types")
    if parents and by != "coroutine":
        raise QueryError(f"parents is for by=coroutine: by={by} has no tasks")
    write, content_type = _FORMATS[form]
    return _Shape(
        by,
        parents,
        partial(collapsed, kind=kind) if form == "collapsed" else write,
        content_type,
        _DOWNLOAD if form == "pprof" else None,
    )

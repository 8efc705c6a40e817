"""Decodes copies of stats pages.

It trusts nothing in them, because anybody may have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, overload

from aiometrics.base.yielding import Pause, in_slices, no_pause
from aiometrics.pages.buckets import Buckets
from aiometrics.pages.chain_reader import ChainReader
from aiometrics.pages.exemplar_table import SEGMENT, WALL, Key, decoded
from aiometrics.pages.header import Buffer, PageError, parse_header
from aiometrics.pages.layout import (
    AT_START,
    COROUTINE,
    ENTRY,
    ENTRY_BYTES,
    ENTRY_WORDS,
    GENERATIONS,
    HEADER,
    HELD,
    HELD_WORDS,
    LOOP,
    LOOP_STATS,
    LOOP_STATS_GAUGES,
    MAX_EXEMPLARS,
    MAX_HELD,
    MAX_PLACES,
    MAX_PROBES,
    NAME_BYTES,
    NO_COROUTINE,
    OWN_CHAIN_NODES,
    OWN_COROUTINES,
    RECORD_KINDS,
    RECORD_OUTCOMES,
    REQUEST,
    REQUEST_WAIT,
    SCOPE_ERRORS,
    SEGMENT_PATH,
    SQUARE_NS2,
    STATUSES,
    TIMED_WITHOUT_EVENTS,
    UNKNOWN,
    WORD,
    YIELD_POINT,
    elapsed_ns,
    pending_ns,
)
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import (
    CALLBACK,
    ITSELF,
    OTHER,
    RUNNING,
    START,
    Chain,
    Coroutine,
    Exemplar,
    Held,
    Histogram,
    Loop,
    RequestType,
    RequestWait,
    Running,
    SegmentPath,
    YieldPoint,
    total,
)

OVERFLOWS = ("coroutine", "yield_point", "request", "request_wait", "string", "loop")
#: A hundred years in ns.
_MAX_COUNT = 1 << 62


class PageView(NamedTuple):
    """The content of one page."""

    loop: Loop
    coroutines: tuple[Coroutine, ...]
    yield_points: tuple[YieldPoint, ...]
    #: Of the process: names and loops without room by kind, internal errors by probe, untraced
    #: tasks, and records of single requests by kind and outcome.
    overflow: Mapping[str, int]
    errors: Mapping[str, int]
    untraced_tasks: int
    records: Mapping[tuple[str, str], int]
    requests: tuple[RequestType, ...]
    request_waits: tuple[RequestWait, ...]
    scope_errors: Mapping[str, int]
    held: tuple[Held, ...]
    segment_paths: tuple[SegmentPath, ...]
    chains: tuple[Chain, ...]


def read(
    data: Buffer,
    now_ns: int,
    unix_ns: int,
    *,
    alive: bool = True,
    pause: Pause = no_pause,
    records: Records | None = None,
) -> PageView:
    """Decode a copy of a page, taken at ``now_ns`` by the clock and Unix time ``unix_ns``.

    Momentary values are left out if the writer is no longer ``alive``. ``pause`` is called now and
    then. With ``records``, what they keep is added there, and is not in the view, unless it is
    declined; the view has no segment paths and no chains then.

    Raises :class:`PageError` if ``data`` is not a page, or if its offsets point outside of it.
    """
    decoder = _Decoder(data, unix_ns - now_ns, now_ns, alive=alive)
    pause()
    if records is None:
        return decoder.view(pause)
    rest = decoder.rest(pause)
    pause()
    if decoder.add_to(records):
        return rest
    view = decoder.view(pause)
    records.declined = True
    return view


def check_range(data: Buffer) -> None:
    """Raise :class:`PageError` if a number in a valid page is so large that it might overflow."""
    layout = parse_header(data, len(data)).layout
    words = memoryview(data)[: layout.strings * WORD].cast("q")
    # The tables in between have text among their words.
    numbers = (
        words[: layout.samples],
        words[layout.samples : layout.held : ENTRY_WORDS],
        words[layout.held : layout.coroutines : HELD_WORDS],
        words[layout.held + HELD["active_ns"] : layout.coroutines : HELD_WORDS],
        words[layout.coroutines :],
    )
    for number in (found for some in numbers for found in (min(some), max(some))):
        if abs(number) > _MAX_COUNT:
            raise PageError(f"a number in a page must not exceed {_MAX_COUNT}, but one is {number}")


class _Names(Sequence[str]):
    """Texts that are decoded when they are asked for."""

    def __init__(self, count: int, text: Callable[[int], str]) -> None:
        self._count = count
        self._text = text

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return tuple(self)[number]
        if number >= self._count:
            raise IndexError(number)
        return self._text(number)


class _Decoder:
    def __init__(self, data: Buffer, unix_offset_ns: int, now_ns: int, *, alive: bool) -> None:
        self._data = data
        self._alive = alive
        self._unix_offset_ns = unix_offset_ns
        self._now_ns = now_ns
        self._layout = parse_header(data, len(data)).layout
        self._words = memoryview(data)[: self._layout.strings * WORD].cast("q")
        self._used = {
            "coroutines": self._count(
                "coroutines", self._layout.max_coroutines + OWN_COROUTINES, OWN_COROUTINES
            ),
            "yield_points": self._count("yield_points", self._layout.max_yield_points + 1),
            "requests": self._count("requests", self._layout.max_requests + 1),
            "request_waits": self._count("request_waits", self._layout.max_request_waits + 1),
            "chain_nodes": self._count(
                "chain_nodes", self._layout.max_chain_nodes + OWN_CHAIN_NODES, OWN_CHAIN_NODES
            ),
        }
        self._strings_used = self._header("strings_used")
        self._weight = self._header("weight")
        if not 0 <= self._strings_used <= self._layout.string_bytes:
            raise PageError(
                f"the string area of {self._layout.string_bytes} bytes "
                f"cannot have {self._strings_used} in use"
            )
        self._exemplars = dict(self._read_exemplars())

    def view(self, pause: Pause) -> PageView:
        """Return all that is in the page."""
        names, requests = tuple(self._names()), self._request_names(pause)
        points = tuple(
            self._yield_point(number, names)
            for number in in_slices(range(self._used["yield_points"]), pause)
        )
        return self._rest(names, pause)._replace(
            coroutines=tuple(
                self._coroutine_record(number, name)
                for number, name in in_slices(enumerate(names), pause)
                if self._coroutine(number, "created")
                or self._coroutine(number, "live")
                or self._coroutine(number, "destroyed_pending")
            ),
            yield_points=(
                *(point for point in points if _was_reached(point)),
                *self._running_points(names),
            ),
            requests=tuple(
                entry
                for number, name in in_slices(enumerate(requests), pause)
                if _used(entry := self._request_type(number, name))
            ),
            request_waits=self._request_waits(requests, pause),
            held=tuple(in_slices(self._held(names), pause)),
            segment_paths=tuple(self._segment_paths(points, pause)),
            chains=tuple(self._chains(points, pause)),
        )

    def rest(self, pause: Pause) -> PageView:
        """Return what is not in :class:`Records`."""
        return self._rest(self._names(), pause)

    def add_to(self, records: Records) -> bool:
        """Add what ``records`` keep, unless it is declined."""
        return records.add(
            self._data,
            self._layout,
            {**self._used, "string_bytes": self._strings_used},
            weight=self._weight,
            threshold_ns=self._header("blocking_threshold_ns"),
            alive=self._alive,
            unix_offset_ns=self._unix_offset_ns,
            exemplars={
                (kind, number): exemplar
                for (kind, number), exemplar in self._exemplars.items()
                if kind < WALL + len(STATUSES)
                and number < self._used["yield_points" if kind == SEGMENT else "requests"]
            },
        )

    def _names(self) -> Sequence[str]:
        return _Names(
            self._used["coroutines"], lambda number: self._text(self._coroutine(number, "name"))
        )

    def _request_names(self, pause: Pause) -> tuple[str, ...]:
        return tuple(
            self._text(self._request(number, "name"))
            for number in in_slices(range(self._used["requests"]), pause)
        )

    def _rest(self, names: Sequence[str], pause: Pause) -> PageView:
        loop = self._loop_record(names)
        pause()
        return PageView(
            loop,
            (),
            (),
            {kind: self._header(f"overflow_{kind}") for kind in OVERFLOWS},
            self._counts(self._layout.errors, MAX_PROBES),
            self._loop_stat("untraced_tasks") if self._alive else 0,
            {
                (kind, outcome): self._loop_stat(f"{kind}_{outcome}")
                for kind in RECORD_KINDS
                for outcome in RECORD_OUTCOMES
            },
            (),
            (),
            {
                kind: self._words[self._layout.scope_errors + number]
                for number, kind in enumerate(SCOPE_ERRORS)
            },
            (),
            (),
            (),
        )

    def _header(self, name: str) -> int:
        return self._words[HEADER[name]]

    def _loop(self, name: str) -> int:
        return self._words[self._layout.loop + LOOP[name]]

    def _loop_stat(self, name: str) -> int:
        return self._words[self._layout.loop_stats + LOOP_STATS[name]]

    def _if_known(self, name: str) -> int | None:
        value = self._loop_stat(name)
        return (
            None if value == UNKNOWN or (name in LOOP_STATS_GAUGES and not self._alive) else value
        )

    def _texts(self, start: int, capacity: int) -> Iterator[tuple[int, str]]:
        """Yield the entries of a table that are in use, each with its text."""
        return self._entries(start, capacity, ENTRY, ENTRY_WORDS)

    def _entries(
        self, start: int, capacity: int, fields: Mapping[str, int], size: int
    ) -> Iterator[tuple[int, str]]:
        lengths = self._words[start + fields["length"] : start + capacity * size : size].tolist()
        for number in (number for number, length in enumerate(lengths) if length):
            entry, length = start + number * size, lengths[number]
            if not 0 <= length <= ENTRY_BYTES:
                raise PageError(f"an entry of at most {ENTRY_BYTES} bytes cannot have {length}")
            text = (entry + len(fields)) * WORD
            yield entry, self._data[text : text + length].decode("utf-8", "replace")

    def _counts(self, start: int, capacity: int) -> dict[str, int]:
        """Return the counts of a table by name."""
        found: dict[str, int] = {}
        for entry, name in self._texts(start, capacity):
            found[name] = found.get(name, 0) + self._words[entry + ENTRY["count"]]
        return found

    def _read_exemplars(self) -> Iterator[tuple[Key, Exemplar]]:
        for _, text in self._texts(self._layout.exemplars, MAX_EXEMPLARS):
            try:
                yield decoded(text)
            except ValueError as error:
                raise PageError(str(error)) from None

    def _coroutine(self, number: int, name: str) -> int:
        return self._words[self._layout.coroutine(number) + COROUTINE[name]]

    def _request(self, number: int, name: str) -> int:
        return self._words[self._layout.request(number) + REQUEST[name]]

    def _count(self, name: str, capacity: int, least: int = 1) -> int:
        count = self._header(name)
        if not least <= count <= capacity:
            raise PageError(f"a page with room for {capacity} {name} cannot have {count}")
        return count

    def _text(self, ref: int) -> str:
        start, length = ref >> 32, ref & 0xFFFF_FFFF
        if ref < 0 or start + length > self._strings_used:
            raise PageError(
                f"string reference {ref:#x} points outside the {self._strings_used} bytes in use"
            )
        if length > NAME_BYTES:
            raise PageError(f"a name of at most {NAME_BYTES} bytes cannot have {length}")
        base = self._layout.strings * WORD + start
        return self._data[base : base + length].decode("utf-8", "replace")

    def _histogram(self, start: int, buckets: Buckets, weight: int) -> Histogram:
        end = start + len(buckets.pieces_ns) + 2
        return buckets.histogram(self._words[start:end].tolist(), weight)

    def _pending_ns(self) -> int:
        since, counted, looked = (
            self._loop(field) for field in ("segment_since_ns", "segment_counted_ns", "looked_ns")
        )
        return pending_ns(since, counted, looked, self._header("blocking_threshold_ns"))

    def _running(self, names: Sequence[str], since: int) -> Running:
        elapsed_ns = self._now_ns - since
        blocks = elapsed_ns >= self._header("blocking_threshold_ns")
        return Running(self._running_name(names), elapsed_ns, blocks)

    def _loop_record(self, names: Sequence[str]) -> Loop:
        layout, buckets = self._layout, self._layout.segment_buckets
        since = self._loop("segment_since_ns")
        timed = bool(self._loop("timed"))
        iterations = self._histogram(layout.iterations, buckets, 1)
        # A loop that is gone is no longer timed, but what was counted stays.
        ever_timed = timed or iterations.count or self._loop("idle_ns")
        with_events = ever_timed and self._loop("timed") != TIMED_WITHOUT_EVENTS
        return Loop(
            self._text(self._header("loop_name")),
            self._histogram(layout.start_delay, buckets, self._weight),
            self._loop("blocking_ns") + self._pending_ns(),
            self._heartbeat_ns(),
            self._running(names, since) if since and self._alive else None,
            iterations,
            self._loop("active_ns")
            + (self._elapsed_ns("turn_since_ns") if timed else self._owned_ns()),
            self._loop("idle_ns") + self._elapsed_ns("poll_since_ns") if ever_timed else None,
            self._loop("events") if with_events else None,
            self._loop("events_waiting") if with_events else None,
            self._if_known("ready_handles"),
            self._if_known("scheduled_timers"),
            self._if_known("thread_cpu_ns"),
            self._if_known("thread_runqueue_ns"),
            tuple(
                self._loop_stat(f"gc_pause_{generation}_ns") for generation in range(GENERATIONS)
            ),
            self._loop_stat("unhandled_exceptions"),
            self._if_known("executor_threads"),
            self._if_known("executor_queue_items"),
            self._counts(layout.samples, MAX_PLACES),
            self._header("pid") if self._alive and self._header("live") else 0,
        )

    def _elapsed_ns(self, field: str) -> int:
        return elapsed_ns(self._loop(field), self._loop("seen_ns"))

    def _owned_ns(self) -> int:
        """Return the time of all segments, an estimate if tasks are sampled.

        Without a timed selector, no other time is known.
        """
        segments_ns = sum(
            self._words[self._layout.segments(number)]
            for number in range(self._used["yield_points"])
        )
        return (segments_ns - self._loop("segments_before_ns") + self._pending_ns()) * self._weight

    def _heartbeat_ns(self) -> int:
        """Return the Unix time at which the loop was last seen alive; 0 if it does not run.

        That is now if it is idle, else when its turn began, or its segment if turns are not timed.
        """
        turn, poll = self._loop("turn_since_ns"), self._loop("poll_since_ns")
        if (
            not self._alive
            or not self._header("live")
            or (self._loop("timed") and not turn and not poll)
        ):
            return 0
        busy_since = turn if self._loop("timed") else self._loop("segment_since_ns")
        return (busy_since or self._now_ns) + self._unix_offset_ns

    def _running_name(self, names: Sequence[str]) -> str:
        number = self._loop("segment_coroutine")
        if not 0 <= number < len(names):
            raise PageError(
                f"the segment in progress is of coroutine {number}, but there are {len(names)}"
            )
        return names[number]

    def _coroutine_record(self, number: int, name: str) -> Coroutine:
        layout, buckets = self._layout, self._layout.wait_buckets
        return Coroutine(
            name,
            self._coroutine(number, "created") * self._weight,
            self._coroutine(number, "live") * self._weight if self._alive else 0,
            self._coroutine(number, "destroyed_pending") * self._weight,
            {
                status: self._histogram(layout.wall(number, code), buckets, self._weight)
                for code, status in enumerate(STATUSES)
            },
            {
                status: self._histogram(layout.active(number, code), buckets, self._weight)
                for code, status in enumerate(STATUSES)
            },
        )

    def _yield_point(self, number: int, names: Sequence[str]) -> YieldPoint:
        layout, start = self._layout, self._layout.yield_point(number)
        scalars = self._words[start : start + len(YIELD_POINT)].tolist()
        coroutine, yield_point, awaits, blocking, inflicted, suspended, oldest = scalars[:7]
        segment_max, wait_max, square_s2, square_ns2, wait_tasks = scalars[7:]
        if not 0 <= coroutine < len(names):
            raise PageError(
                f"yield point {number} belongs to coroutine {coroutine}, but there are {len(names)}"
            )
        weight = self._weight_of(names[coroutine])
        return YieldPoint(
            names[coroutine],
            self._text(yield_point),
            self._text(awaits),
            self._histogram(layout.segments(number), layout.segment_buckets, weight),
            self._histogram(layout.waits(number), layout.wait_buckets, weight),
            blocking * weight,
            inflicted * weight,
            suspended * weight if self._alive else 0,
            oldest + self._unix_offset_ns if oldest and self._alive else 0,
            self._exemplars.get((SEGMENT, number)),
            segment_max,
            wait_max,
            (square_s2 * SQUARE_NS2 + square_ns2) * weight,
            wait_tasks * weight,
        )

    def _request_type(self, number: int, name: str) -> RequestType:
        layout, buckets = self._layout, self._layout.wait_buckets
        active = self._histogram(layout.request_active(number), buckets, 1)
        return RequestType(
            name,
            {
                status: self._histogram(layout.request_wall(number, code), buckets, 1)
                for code, status in enumerate(STATUSES)
            },
            replace(active, sum_ns=active.sum_ns * self._weight),
            self._request(number, "background_ns") * self._weight,
            self._request(number, "in_progress") if self._alive else 0,
            self._request(number, "objective_ns") or None,
            self._request(number, "violations") + self._request(number, "overdue"),
            {
                status: exemplar
                for code, status in enumerate(STATUSES)
                if (exemplar := self._exemplars.get((WALL + code, number)))
            },
        )

    def _held(self, names: Sequence[str]) -> Iterator[Held]:
        layout = self._layout
        for entry, text in self._entries(layout.held, MAX_HELD, HELD, HELD_WORDS):
            samples, active_ns, coroutine = self._words[entry : entry + HELD["length"]].tolist()
            if not NO_COROUTINE <= coroutine < len(names):
                raise PageError(
                    f"a held line belongs to coroutine {coroutine}, but there are {len(names)}"
                )
            name = ITSELF if coroutine == NO_COROUTINE else names[coroutine]
            yield Held(name, text, samples, active_ns)

    def _segment_paths(self, points: Sequence[YieldPoint], pause: Pause) -> Iterator[SegmentPath]:
        layout, size = self._layout, len(SEGMENT_PATH)
        counts = self._words[
            layout.segment_paths + SEGMENT_PATH["segments"] : layout.strings : size
        ]
        used = [number for number, count in enumerate(counts.tolist()) if count]
        for path in in_slices(map(layout.segment_path, used), pause):
            began, ended, segments, active_ns = self._words[path : path + size].tolist()
            if not (AT_START <= began < len(points) and 0 <= ended < len(points)):
                raise PageError(
                    f"segments from yield point {began} to {ended}, but there are {len(points)}"
                )
            point, weight = points[ended], self._weight_of(points[ended].coroutine)
            yield SegmentPath(
                point.coroutine,
                START if began == AT_START else points[began].yield_point,
                point.yield_point,
                segments * weight,
                active_ns * weight,
            )

    def _chains(self, points: Sequence[YieldPoint], pause: Pause) -> Iterator[Chain]:
        chains = ChainReader(self._words, self._layout, points, self._text, self._weight)
        return chains.chains(self._used["chain_nodes"], pause)

    def _request_waits(self, requests: tuple[str, ...], pause: Pause) -> tuple[RequestWait, ...]:
        other, *others = (
            self._request_wait(number, requests)
            for number in in_slices(range(self._used["request_waits"]), pause)
        )
        return (other, *others) if other.wait_ns else tuple(others)

    def _request_wait(self, number: int, requests: tuple[str, ...]) -> RequestWait:
        start = self._layout.request_wait(number)
        request, awaits, wait_ns = self._words[start : start + len(REQUEST_WAIT)].tolist()
        if not 0 <= request < len(requests):
            raise PageError(
                f"request wait {number} belongs to request {request}, but there are {len(requests)}"
            )
        return RequestWait(requests[request], self._text(awaits), wait_ns * self._weight)

    def _running_points(self, names: Sequence[str]) -> Iterable[YieldPoint]:
        layout, pending_ns, current = (
            self._layout,
            self._pending_ns(),
            self._loop("segment_coroutine"),
        )
        for number, name in enumerate(names):
            running_ns = self._coroutine(number, "running_ns") + (
                pending_ns if number == current else 0
            )
            if running_ns:
                segments, waits = (
                    _empty(buckets) for buckets in (layout.segment_buckets, layout.wait_buckets)
                )
                yield YieldPoint(
                    name,
                    RUNNING,
                    RUNNING,
                    segments,
                    waits,
                    running_ns * self._weight_of(name),
                    0,
                    0,
                    0,
                )

    def _weight_of(self, coroutine: str) -> int:
        """Return how many times a record counts: tasks may be sampled, callbacks never are."""
        return 1 if coroutine == CALLBACK else self._weight


def _empty(buckets: Buckets) -> Histogram:
    return buckets.histogram([0] * (len(buckets.pieces_ns) + 2), 1)


def _was_reached(point: YieldPoint) -> bool:
    """Whether the yield point was ever reached; ``(other)`` exists even if it was not."""
    return bool(point.segments.count or point.waits.count or point.suspended)


def _used(entry: RequestType) -> bool:
    """Whether the type was ever used; ``(other)`` exists even if it was not."""
    return entry.request != OTHER or bool(
        entry.in_progress or entry.background_ns or total(entry.wall.values()).count
    )

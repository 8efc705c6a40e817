"""A stats page: a block of memory that one loop's recorder writes and readers copy."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from aiometrics.base.unpatched import getpid, sleep, unix_ns
from aiometrics.pages.layout import (
    CALLBACKS,
    CHAIN_NODE,
    COROUTINE,
    HEADER,
    LOOP,
    LOOP_COUNTERS,
    LOOP_NAME_BYTES,
    LOOP_STATS,
    LOOP_STATS_GAUGES,
    MAGIC,
    NAME_BYTES,
    OWN_CHAIN_NODES,
    OWN_COROUTINES,
    REQUEST,
    REQUEST_WAIT,
    UNKNOWN,
    VERSION,
    WORD,
    YIELD_POINT,
    Layout,
    elapsed_ns,
    pending_ns,
)
from aiometrics.pages.snapshot import CALLBACK, OTHER

_STRING_SHIFT, _STRING_LENGTH = 32, 0xFFFF_FFFF
_STARTED, _FINISHED = LOOP["started"], LOOP["finished"]
#: How often, and how far apart, a copy is attempted while the writer is in the middle of an update.
_COPIES, _COPY_PAUSE_SECONDS = 50, 100e-6
#: How often that is tried first without keeping the loop from writing.
_UNHELD_COPIES = 2


#: A forked child must not see what its parent writes. Windows has neither flags nor forks.
_PRIVATE = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}

Memory = bytearray | mmap.mmap


#: Starts and ends of parts of a page, in words.
Parts = tuple[tuple[int, int], ...]


class Copying(NamedTuple):
    """How parts of a page are copied.

    ``provide(target, parts)`` makes their memory ready, and may let other threads run.
    ``copy_parts(target, source, parts)`` copies them at once. ``copy_unheld(target, source, parts,
    loop)`` copies them while a loop may write, and returns whether it did not, as the words from
    ``loop`` on say.
    """

    provide: Callable[[Memory, Parts], object]
    copy_parts: Callable[[Memory, Memory, Parts], object]
    copy_unheld: Callable[[Memory, Memory, Parts, int], bool] | None = None


def _provide(_target: Memory, _parts: Parts) -> None:
    """Do nothing: the system provides memory as it is written."""


def _copy_parts(target: Memory, source: Memory, parts: Parts) -> None:
    for first, last in parts:
        start, end = first * WORD, last * WORD
        target[start:end] = source[start:end]


PYTHON_COPYING = Copying(_provide, _copy_parts)


def zeros(size: int) -> mmap.mmap:
    """Return memory that takes up room only where it is written."""
    return mmap.mmap(-1, size, **_PRIVATE)


def encoded(text: str, most: int) -> bytes:
    """Return ``text`` in UTF-8, cut between characters if it has more than ``most`` bytes.

    A page with text that is not UTF-8 is left to Python at each scrape.
    """
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[:most].decode("utf-8", "ignore").encode()


def _encoded(text: str) -> bytes:
    return encoded(text, NAME_BYTES)


def stored(text: str) -> str:
    """Return ``text`` as it is read back from a page."""
    return _encoded(text).decode()


class _Writing:
    """Counts an update of a page as started when it is entered, and as finished at its exit."""

    __slots__ = ("_loop", "_words")

    def __init__(self, words: memoryview[int], loop: int) -> None:
        self._words = words
        self._loop = loop

    def __enter__(self) -> None:
        self._words[self._loop + _STARTED] += 1

    def __exit__(self, *exc_info: object) -> None:
        self._words[self._loop + _FINISHED] += 1


class Page:
    """A block of ``layout.size`` bytes.

    The block is new, or ``memory``, which must be zeroed or contain a page of the same layout. Such
    a page is continued: its counters go on, and its momentary values are reset.

    ``words`` is the view that recorders write through. Records are only ever added:
    :meth:`add_coroutine`, :meth:`add_yield_point`, :meth:`add_request` and :meth:`add_request_wait`
    return a record's number, or 0, which is ``(other)``, when the page is full.
    """

    def __init__(
        self,
        layout: Layout,
        blocking_threshold_ns: int,
        weight: int = 1,
        *,
        memory: Memory | None = None,
    ) -> None:
        self.layout = layout
        self.memory = zeros(layout.size) if memory is None else memory
        self.words = memoryview(self.memory)[: layout.strings * WORD].cast("q")
        self._refs: dict[str, int] = {}
        #: ``with page.writing:`` marks the page as inconsistent meanwhile; see :meth:`copy`.
        self.writing = _Writing(self.words, layout.loop)
        if self.words[HEADER["magic"]] == MAGIC:
            self._continue()
        else:
            self._begin(blocking_threshold_ns, weight)

    def _begin(self, blocking_threshold_ns: int, weight: int) -> None:
        layout = self.layout
        header = {
            "version": VERSION,
            "size": layout.size,
            "segment_bounds": len(layout.segment_bounds_ns),
            "wait_bounds": len(layout.wait_bounds_ns),
            "max_coroutines": layout.max_coroutines,
            "max_yield_points": layout.max_yield_points,
            "max_requests": layout.max_requests,
            "string_bytes": layout.string_bytes,
            "strings_used": LOOP_NAME_BYTES,
            "weight": weight,
            "blocking_threshold_ns": blocking_threshold_ns,
            "native": layout.native,
        }
        for name, value in header.items():
            self.words[HEADER[name]] = value
        for number, bound in enumerate((*layout.segment_bounds_ns, *layout.wait_bounds_ns)):
            self.words[layout.bounds + number] = bound
        self._store_own()
        self._reset_loop_stats()
        for name in ("thread_cpu_ns", "thread_runqueue_ns"):
            self.words[layout.loop_stats + LOOP_STATS[name]] = UNKNOWN
        self.words[HEADER["magic"]] = MAGIC

    def _continue(self) -> None:
        self.close_interrupted()
        for place in self._string_places():
            self._refs[self.text(self.words[place])] = self.words[place]

    def _string_places(self) -> Iterator[int]:
        for number in range(self.words[HEADER["coroutines"]]):
            yield self.layout.coroutine(number) + COROUTINE["name"]
        for number in range(self.words[HEADER["yield_points"]]):
            yield self.layout.yield_point(number) + YIELD_POINT["yield_point"]
            yield self.layout.yield_point(number) + YIELD_POINT["awaits"]
        for number in range(self.words[HEADER["requests"]]):
            yield self.layout.request(number) + REQUEST["name"]
        for number in range(self.words[HEADER["request_waits"]]):
            yield self.layout.request_wait(number) + REQUEST_WAIT["awaits"]
        for number in range(OWN_CHAIN_NODES, self.words[HEADER["chain_nodes"]]):
            yield self.layout.chain_node(number) + CHAIN_NODE["place"]

    def _store_own(self) -> None:
        other = self._string(OTHER)
        self.words[self.layout.coroutine(0) + COROUTINE["name"]] = other
        self.words[self.layout.coroutine(CALLBACKS) + COROUTINE["name"]] = self._string(CALLBACK)
        for field in ("yield_point", "awaits"):
            self.words[self.layout.yield_point(0) + YIELD_POINT[field]] = other
        self.words[self.layout.request(0) + REQUEST["name"]] = other
        self.words[self.layout.request_wait(0) + REQUEST_WAIT["awaits"]] = other
        self.words[HEADER["coroutines"]] = OWN_COROUTINES
        self.words[HEADER["chain_nodes"]] = OWN_CHAIN_NODES
        for kind in ("yield_points", "requests", "request_waits"):
            self.words[HEADER[kind]] = 1

    def copy(self, copying: Copying = PYTHON_COPYING) -> Memory:
        """Return a consistent copy, or an inconsistent one if the writer does not pause.

        Only what is in use is copied. Any thread may call this.
        """
        data = zeros(self.layout.size)
        copying.provide(data, self.layout.in_use(self.words))
        if any(self._copied_unheld(data, copying) for _ in range(_UNHELD_COPIES)):
            return data
        for _ in range(_COPIES):
            finished = self.words[self.layout.loop + _FINISHED]
            copying.copy_parts(data, self.memory, self.layout.in_use(self.words))
            if self.words[self.layout.loop + _STARTED] == finished:
                return data
            sleep(_COPY_PAUSE_SECONDS)
        return data

    def _copied_unheld(self, data: Memory, copying: Copying) -> bool:
        """Return whether all could be copied without keeping the loop from writing."""
        if copying.copy_unheld is None:
            return False
        parts = self.layout.in_use(self.words)
        return copying.copy_unheld(
            data, self.memory, parts, self.layout.loop
        ) and parts == self.layout.in_use(memoryview(data)[: len(HEADER) * WORD].cast("q"))

    def update(self, change: Callable[..., object], *args: Any) -> None:
        """Call ``change(*args)``, which writes, as ``with page.writing:`` does.

        It is marked as finished at whatever moment the handler of a signal raises. At the entry of
        ``__exit__``, a handler may raise, too.
        """
        words, loop = self.words, self.layout.loop
        words[loop + _STARTED] += 1
        try:
            change(*args)
        finally:
            words[loop + _FINISHED] += 1

    @property
    def intact(self) -> bool:
        """Whether it still begins as a page; somebody may overwrite it in its file."""
        return self.words[HEADER["magic"]] == MAGIC

    def open(self, loop_name: str) -> None:
        """Begin to serve a loop; counters of an earlier loop on this page go on."""
        self.update(self._open, encoded(loop_name, LOOP_NAME_BYTES))

    def _open(self, name: bytes) -> None:
        start = self.layout.strings * WORD
        self.memory[start : start + len(name)] = name
        self.words[HEADER["loop_name"]] = len(name)
        self.words[HEADER["opened_unix_ns"]] = unix_ns()
        self.words[HEADER["pid"]] = getpid()
        self.words[HEADER["live"]] = 1

    def close(self) -> None:
        """Stop serving the loop, which is gone.

        Momentary values are reset, and counters stay.
        """
        self.update(self._close)

    def _close(self) -> None:
        self.settle()
        self._settle_times()
        self._reset_momentary()

    def close_interrupted(self) -> None:
        """Close it after a writer that may have been stopped in the middle of an update."""
        loop = self.layout.loop
        self.words[loop + _FINISHED] = self.words[loop + _STARTED]
        self.close()

    def _reset_momentary(self) -> None:
        words, layout = self.words, self.layout
        words[HEADER["live"]] = 0
        for field in LOOP.keys() - LOOP_COUNTERS:
            words[layout.loop + LOOP[field]] = 0
        self._reset_loop_stats()
        for number in range(words[HEADER["coroutines"]]):
            words[layout.coroutine(number) + COROUTINE["live"]] = 0
        for number in range(words[HEADER["yield_points"]]):
            words[layout.yield_point(number) + YIELD_POINT["suspended"]] = 0
            words[layout.yield_point(number) + YIELD_POINT["oldest_ns"]] = 0
        for number in range(words[HEADER["requests"]]):
            words[layout.request(number) + REQUEST["in_progress"]] = 0

    def coroutines(self) -> Iterator[tuple[int, str]]:
        """Yield number and name of each coroutine record but ``(other)`` and ``(callback)``."""
        for number in range(OWN_COROUTINES, self.words[HEADER["coroutines"]]):
            yield number, self.text(self.words[self.layout.coroutine(number) + COROUTINE["name"]])

    def yield_points(self) -> Iterator[tuple[int, tuple[int, str, str]]]:
        """Yield number, and coroutine and names, of each yield point record but ``(other)``."""
        for number in range(1, self.words[HEADER["yield_points"]]):
            record = self.layout.yield_point(number)
            coroutine, *refs = (
                self.words[record + YIELD_POINT[field]]
                for field in ("coroutine", "yield_point", "awaits")
            )
            yield_point, awaits = map(self.text, refs)
            yield number, (coroutine, yield_point, awaits)

    def requests(self) -> Iterator[tuple[int, str]]:
        """Yield number and name of each request record but ``(other)``."""
        for number in range(1, self.words[HEADER["requests"]]):
            yield number, self.text(self.words[self.layout.request(number) + REQUEST["name"]])

    def request_waits(self) -> Iterator[tuple[int, tuple[int, str]]]:
        """Yield number, request and awaited name of each request wait record but ``(other)``."""
        for number in range(1, self.words[HEADER["request_waits"]]):
            record = self.layout.request_wait(number)
            yield (
                number,
                (
                    self.words[record + REQUEST_WAIT["request"]],
                    self.text(self.words[record + REQUEST_WAIT["awaits"]]),
                ),
            )

    def text(self, ref: int) -> str:
        """Return the text that a word of this page refers to; not more, if it was overwritten."""
        start = self.layout.strings * WORD + (ref >> _STRING_SHIFT)
        length = min(ref & _STRING_LENGTH, NAME_BYTES)
        return self.memory[start : start + length].decode("utf-8", "replace")

    def add_coroutine(self, name: str) -> int:
        """Add a coroutine record and return its number."""
        number = self.words[HEADER["coroutines"]]
        if number >= self.layout.max_coroutines + OWN_COROUTINES:
            self.words[HEADER["overflow_coroutine"]] += 1
            return 0
        ref = self._string(name)
        if not ref:
            return 0
        self.words[self.layout.coroutine(number) + COROUTINE["name"]] = ref
        self.words[HEADER["coroutines"]] = number + 1
        return number

    def add_yield_point(self, coroutine: int, yield_point: str, awaits: str) -> int:
        """Add a yield point record and return its number."""
        number = self.words[HEADER["yield_points"]]
        if number > self.layout.max_yield_points:
            self.words[HEADER["overflow_yield_point"]] += 1
            return 0
        refs = self._string(yield_point), self._string(awaits)
        if not all(refs):
            return 0
        record = self.layout.yield_point(number)
        self.words[record + YIELD_POINT["coroutine"]] = coroutine
        (
            self.words[record + YIELD_POINT["yield_point"]],
            self.words[record + YIELD_POINT["awaits"]],
        ) = refs
        self.words[HEADER["yield_points"]] = number + 1
        return number

    def add_request(self, name: str) -> int:
        """Add a request record and return its number."""
        number = self.words[HEADER["requests"]]
        if number > self.layout.max_requests:
            self.words[HEADER["overflow_request"]] += 1
            return 0
        ref = self._string(name)
        if not ref:
            return 0
        self.words[self.layout.request(number) + REQUEST["name"]] = ref
        self.words[HEADER["requests"]] = number + 1
        return number

    def add_request_wait(self, request: int, awaits: str) -> int:
        """Add a request wait record and return its number."""
        number = self.words[HEADER["request_waits"]]
        if number > self.layout.max_request_waits:
            self.words[HEADER["overflow_request_wait"]] += 1
            return 0
        ref = self._string(awaits)
        if not ref:
            return 0
        record = self.layout.request_wait(number)
        self.words[record + REQUEST_WAIT["request"]] = request
        self.words[record + REQUEST_WAIT["awaits"]] = ref
        self.words[HEADER["request_waits"]] = number + 1
        return number

    def chain_string(self, text: str) -> int:
        """Return a reference to the place of a chain node; 0 if there is no room for it.

        The places have a room of their own, so that none is left without a name for their sake.
        """
        ref = self._refs.get(text)
        if ref is not None:
            return ref
        words, size = self.words, len(_encoded(text))
        if (
            words[HEADER["chain_bytes"]] + size > self.layout.max_chain_bytes
            or words[HEADER["strings_used"]] + size > self.layout.string_bytes
        ):
            return 0
        words[HEADER["chain_bytes"]] += size
        return self._string(text)

    def mark_observed(self, now_ns: int) -> None:
        """Count the segment, turn or wait in progress up to ``now_ns``.

        A segment counts as blocking from the threshold on.
        """
        since = self.words[self.layout.loop + LOOP["segment_since_ns"]]
        if since and now_ns - since >= self.words[HEADER["blocking_threshold_ns"]]:
            self._advance("looked_ns", now_ns)
        self.mark_turn_observed(now_ns)

    def mark_turn_observed(self, now_ns: int) -> None:
        """Count the turn or the wait in progress up to ``now_ns``, but not the segment."""
        self._advance("seen_ns", now_ns)

    def _advance(self, field: str, now_ns: int) -> None:
        """Move a time forward, never back: another reader may have observed the page later."""
        place = self.layout.loop + LOOP[field]
        self.words[place] = max(self.words[place], now_ns)

    def settle(self) -> None:
        """Make the time final that readers counted of the segment in progress.

        Only the writer knows that it is still in progress.
        """
        words, loop = self.words, self.layout.loop
        since, counted, looked = (
            words[loop + LOOP[field]]
            for field in ("segment_since_ns", "segment_counted_ns", "looked_ns")
        )
        pending = pending_ns(since, counted, looked, words[HEADER["blocking_threshold_ns"]])
        if not pending:
            return
        words[loop + LOOP["segment_counted_ns"]] += pending
        words[
            self.layout.coroutine(words[loop + LOOP["segment_coroutine"]]) + COROUTINE["running_ns"]
        ] += pending
        words[loop + LOOP["blocking_ns"]] += pending
        if not words[loop + LOOP["timed"]]:
            # The whole segment is added when it ends, and this part is subtracted then.
            words[loop + LOOP["active_ns"]] += pending * words[HEADER["weight"]]

    def forget_turns(self) -> None:
        """Show from now on that the loop's turns are not known; what was counted stays."""
        self.update(self._forget_turns)

    def _forget_turns(self) -> None:
        self._settle_times()
        for field in ("timed", "turn_since_ns", "poll_since_ns"):
            self.words[self.layout.loop + LOOP[field]] = 0

    def _settle_times(self) -> None:
        """Make the time final that readers counted of the turn or wait in progress."""
        words, loop = self.words, self.layout.loop
        segments_ns = sum(
            words[self.layout.segments(number)] for number in range(words[HEADER["yield_points"]])
        )
        if words[loop + LOOP["timed"]]:
            words[loop + LOOP["active_ns"]] += self._seen_ns("turn_since_ns")
            words[loop + LOOP["idle_ns"]] += self._seen_ns("poll_since_ns")
        else:
            owned_ns = segments_ns - words[loop + LOOP["segments_before_ns"]]
            words[loop + LOOP["active_ns"]] += owned_ns * words[HEADER["weight"]]
        words[loop + LOOP["segments_before_ns"]] = segments_ns

    def _seen_ns(self, field: str) -> int:
        since_ns, seen_ns = (
            self.words[self.layout.loop + LOOP[name]] for name in (field, "seen_ns")
        )
        return elapsed_ns(since_ns, seen_ns)

    def _reset_loop_stats(self) -> None:
        self.words[self.layout.loop_stats + LOOP_STATS["untraced_tasks"]] = 0
        for name in LOOP_STATS_GAUGES:
            self.words[self.layout.loop_stats + LOOP_STATS[name]] = UNKNOWN

    def _string(self, text: str) -> int:
        """Return the reference of ``text`` in the string area; 0 if there is no room for it."""
        ref = self._refs.get(text)
        if ref is not None:
            return ref
        data = _encoded(text)
        used = self.words[HEADER["strings_used"]]
        if used + len(data) > self.layout.string_bytes:
            self.words[HEADER["overflow_string"]] += 1
            return 0
        start = self.layout.strings * WORD + used
        self.memory[start : start + len(data)] = data
        self.words[HEADER["strings_used"]] = used + len(data)
        self._refs[text] = ref = used << _STRING_SHIFT | len(data)
        return ref

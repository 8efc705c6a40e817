"""Feeds broken pages to the reader, which may refuse them, and do nothing else.

A page that it accepts must lead to text that can be parsed, and must be safe to continue.
"""

from __future__ import annotations

import re
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from random import Random

from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.renderings import Copied, rendered, rendered_in_c

from aiometrics.base.yielding import no_pause
from aiometrics.exposition import text
from aiometrics.exposition.detail import Detail
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.text import Renderer
from aiometrics.pages import chain_reader, header, merge, reader
from aiometrics.pages.chain_table import ChainTable
from aiometrics.pages.counter_table import CounterTable
from aiometrics.pages.exemplar_table import SEGMENT, WALL, ExemplarTable
from aiometrics.pages.header import PageError, PageFormat
from aiometrics.pages.held_table import HeldTable
from aiometrics.pages.layout import (
    LOOP,
    LOOP_STATS,
    NAME_BYTES,
    NO_COROUTINE,
    REQUEST_WAIT,
    SEGMENT_PATH,
    YIELD_POINT,
    Layout,
)
from aiometrics.pages.merge import merged
from aiometrics.pages.page import Page
from aiometrics.pages.reader import PageView
from aiometrics.pages.snapshot import Exemplar
from aiometrics.recorder.implementation import IMPLEMENTATIONS

from .branches import Branches
from .mutations import Mutator
from .shared_directories import check_in_directory, directory
from .successors import continue_page

NOW_NS, UNIX_NS = 5_000_000_000, 1_763_856_000_000_000_000
LAYOUT = Layout(
    (1_000, 1_000_000),
    (2_000, 3_000, 4_000),
    max_coroutines=3,
    max_yield_points=3,
    max_requests=2,
    native=True,
)
PAGE_FORMAT = PageFormat(LAYOUT, 100, 1)
#: One in so many accepted pages is rendered, and one in so many is also continued, as is each page
#: that took a new branch.
_RENDERED, _CONTINUED = 4, 40
#: One in so many of those that are rendered is in several scrapes, with other pages.
_SCRAPED = 2
#: One in so many pages is put into a shared directory.
_IN_DIRECTORY = 20
_CORPUS = 5000

Read = Callable[[bytes, int, int], PageView]
_LABELS = r"\{([a-z_]+=\"([^\"\\]|\\[\"n\\])*\"(,|(?=\})))*\}"
_SAMPLE = re.compile(rf"[a-z_]+({_LABELS})? \S+( # {_LABELS} \S+ \S+)?")
_NUMBERS = re.compile(r"-?(0x[0-9a-f]+|[0-9]+)(, -?[0-9]+)*,?")


@dataclass
class Report:
    """The results of a campaign."""

    cases: int = 0
    accepted: int = 0
    #: How many of the accepted pages were rendered, and how many of these were continued.
    rendered: int = 0
    continued: int = 0
    #: How many of those that were rendered the C core wrote.
    compiled: int = 0
    #: Reasons why pages were refused, without their numbers, and how often.
    refusals: Counter[str] = field(default_factory=Counter)
    #: Tracebacks of unexpected errors, each with the page that caused it.
    findings: dict[str, bytes] = field(default_factory=dict, repr=False)
    branches: int = 0
    corpus: int = 0
    seconds: float = 0.0
    #: CPU time of the slowest case.
    slowest_seconds: float = 0.0
    #: Peak memory of the process in KiB, after the first tenth of the cases and at the end.
    early_kib: int = 0
    late_kib: int = 0


def seeds() -> list[bytes]:
    """Return pages as recorders write them: an empty one, a full one, and one of a blocked loop."""
    full = _full(UNIX_NS, weight=1)
    blocked = bytearray(full.copy())
    words = memoryview(blocked)[: LAYOUT.strings * 8].cast("q")
    for number, word in enumerate(LOOP.values()):
        words[LAYOUT.loop + word] = number
    words[LAYOUT.loop + LOOP["finished"]] = words[LAYOUT.loop + LOOP["started"]]
    for name in ("segment_since_ns", "looked_ns", "turn_since_ns", "seen_ns"):
        words[LAYOUT.loop + LOOP[name]] = NOW_NS - 500 + LOOP[name]
    for word in LOOP_STATS.values():
        words[LAYOUT.loop_stats + word] = 3
    empty = Page(LAYOUT, blocking_threshold_ns=100)
    return [bytes(empty.copy()), bytes(full.copy()), bytes(blocked)]


def _full(unix_ns: int, weight: int) -> Page:
    """Return a page with content of every kind, and exemplars of ``unix_ns``."""
    full = Page(LAYOUT, blocking_threshold_ns=100, weight=weight)
    full.open("MainThread")
    for number in range(3):
        coroutine = full.add_coroutine(f"shop.größe.handle_{number}")
        full.add_yield_point(coroutine, f"shop/db.py:{number} fetch", "asyncio.sleep")
        full.add_request_wait(full.add_request(f"GET /{number}"), "asyncio.sleep")
    ChainTable(full).node(("shop/api.py:3 handle", "shop/db.py:1 fetch"), 1)
    owners = {LAYOUT.yield_point(number) + YIELD_POINT["coroutine"] for number in range(4)}
    owners |= {LAYOUT.request_wait(number) + REQUEST_WAIT["request"] for number in range(4)}
    for place in range(LAYOUT.coroutines, LAYOUT.strings):
        if not full.words[place] and place not in owners:
            full.words[place] = place - LAYOUT.coroutines
    for path in range(LAYOUT.segment_paths, LAYOUT.strings, len(SEGMENT_PATH)):
        full.words[path + SEGMENT_PATH["began"]] = path % 4 - 1
        full.words[path + SEGMENT_PATH["ended"]] = path % 4
    CounterTable(full, LAYOUT.samples, 3).add("shop/db.py:1 fetch > re.match", 3)
    CounterTable(full, LAYOUT.errors, 3).add("naming", 2)
    held = HeldTable(full)
    for coroutine in (NO_COROUTINE, 1):
        held.add(held.number(coroutine, "shop/db.py:1 fetch > re.match"), 3, 5_000)
    exemplars = ExemplarTable(full)
    for kind in (SEGMENT, WALL, WALL + 2):
        exemplars.put(
            kind,
            1,
            Exemplar((("request_id", "REQ-001"), ("trace_id", "a" * 32)), 250_000_000, unix_ns),
        )
    return full


@cache
def _sound() -> Copied:
    """Return a page with the names of the full one, whose numbers are all larger or smaller."""
    page, random = _full(UNIX_NS + 1, weight=7), Random(1)  # noqa: S311 - as below
    for number in range(4):
        start = LAYOUT.yield_point(number)
        for place in range(start + YIELD_POINT["blocking_ns"], start + LAYOUT.yield_point_words):
            page.words[place] = random.choice((page.words[place] // 2, page.words[place] * 2))
    page.words[LAYOUT.segments(3)] = 1  # in the full one, it has the most loop time
    return Copied(bytes(page.copy()))


def campaign(cases: int, seed: int, read: Read = reader.read) -> Report:
    """Try ``cases`` pages.

    Later pages are made from those that made ``read`` take a branch for the first time.
    """
    random = Random(seed)  # noqa: S311 - the campaign must be reproducible
    mutate, corpus, report = Mutator(random), seeds(), Report()
    good = corpus.copy()
    started = time.perf_counter()
    with Branches(reader, chain_reader, merge, header) as branches, directory() as path:
        for data in corpus:
            _try(report, data, partial(_read_and_continue, report, data, read))
        for number in range(cases):
            known = len(branches)
            data = mutate(random.choice(random.choice((good, corpus))), random.choice(corpus))
            check = (
                _read_and_continue
                if report.accepted % _CONTINUED == 0
                else _read_and_render
                if report.accepted % _RENDERED == 0
                else _read
            )
            _try(report, data, partial(check, report, data, read))
            if len(branches) > known and len(corpus) < _CORPUS:
                corpus.append(data)
                _try(report, data, partial(_read_and_continue, report, data, read))
            if number % _IN_DIRECTORY == 0:
                in_directory = partial(check_in_directory, data, path, PAGE_FORMAT, NOW_NS, UNIX_NS)
                _try(report, data, in_directory)
            if number == cases // 10:
                report.early_kib = _peak_kib()
        report.branches = len(branches)
    report.corpus, report.late_kib, report.seconds = (
        len(corpus),
        _peak_kib(),
        time.perf_counter() - started,
    )
    return report


def _try(report: Report, data: bytes, attempt: Callable[[], object]) -> None:
    report.cases += 1
    started = time.thread_time()
    try:
        attempt()
    except PageError as error:
        report.refusals[_NUMBERS.sub("N", str(error))] += 1
    except Exception:  # noqa: BLE001 - the campaign looks for any
        report.findings.setdefault(traceback.format_exc(), data)
    report.slowest_seconds = max(report.slowest_seconds, time.thread_time() - started)


def _read(report: Report, data: bytes, read: Read) -> PageView:
    if "c" in IMPLEMENTATIONS:
        with suppress(PageError):  # it is for the reader under test to refuse it
            _feed(data)
    view = read(data, NOW_NS, UNIX_NS)
    report.accepted += 1
    _check_size(view)
    return view


def _read_and_render(report: Report, data: bytes, read: Read) -> None:
    """Check that a page that is accepted can be rendered."""
    _render(_read(report, data, read))
    report.rendered += 1
    if "c" in IMPLEMENTATIONS:
        _compare(report, data)


def _compare(report: Report, data: bytes) -> None:
    """Check that the C core writes the same of a page, and of one whose writer is gone.

    With less detail, that is the second of three scrapes; the others have a sound page. Pages of
    different formats are never in one scrape.
    """
    page = Copied(data)
    both = [page, Copied(data, alive=False)]
    report.compiled += _compared(both, None, None)
    if report.rendered % _SCRAPED == 0:
        in_python, in_c = Detail(1), Detail(1)
        alike = header.parse_header(data, len(data)).layout == LAYOUT
        for pages in ([_sound()], both, [_sound(), page] if alike else both):
            _compared(pages, in_python, in_c)


def _compared(pages: list[Copied], in_python: Detail | None, in_c: Detail | None) -> bool:
    """Compare what both write; return whether the C core did."""
    compiled = rendered_in_c(pages, NOW_NS, UNIX_NS, in_c)
    if rendered(pages, NOW_NS, UNIX_NS, detail=in_python).formats != compiled.formats:
        raise AssertionError("the C core writes a page in another way")
    return compiled.compiled


def _feed(data: bytes) -> None:
    """Let the C core read a page that may be broken."""
    records = IMPLEMENTATIONS["c"].new_records()
    reader.read(data, NOW_NS, UNIX_NS, records=records)


def _read_and_continue(report: Report, data: bytes, read: Read) -> None:
    """Check that a page that is accepted can be rendered, and continued by another process."""
    _read_and_render(report, data, read)
    report.continued += 1
    for implementation in IMPLEMENTATIONS:
        _render(read(continue_page(data, PAGE_FORMAT, implementation), NOW_NS, UNIX_NS))


def _check_size(view: PageView) -> None:
    """Check that no name is longer than a page may store."""
    names = [view.loop.loop, *(entry.coroutine for entry in view.coroutines)]
    names += [name for point in view.yield_points for name in point.labels]
    names += [name for wait in view.request_waits for name in (wait.request, wait.awaits)]
    names += [name for chain in view.chains for name in chain.frames]
    longest = max(map(len, names))
    if longest > NAME_BYTES:
        raise AssertionError(f"a name of {longest} characters")


def _render(view: PageView) -> None:
    snapshot = merged([view, view], taken_ns=UNIX_NS, errors={}, untraced_tasks=0, sample_ratio=1.0)
    renderer = Renderer(on_error=_raise, pause=no_pause)
    responses = {
        form: b"".join(
            renderer.slices(snapshot, ExporterInfo("1.2.3", "python", "descriptors"), form)
        )
        for form in (text.TEXT, text.OPENMETRICS)
    }
    list(parse_text(responses[text.TEXT].decode()))
    for line in responses[text.OPENMETRICS].decode().split("\n"):
        if line and not line.startswith("# ") and not _SAMPLE.fullmatch(line):
            raise AssertionError(f"not a line of OpenMetrics: {line!r}")


def _raise(error: Exception) -> None:
    raise error


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

"""The hotspots report: which rows it has, in which order, and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.samples import BOUNDS_NS, coroutine, histogram, loop, yield_point

from aiometrics.exposition.hotspots import (
    Burner,
    Endings,
    Holder,
    Hotspots,
    LoopState,
    Stuck,
    Waiter,
    find_hotspots,
)
from aiometrics.pages.snapshot import (
    RAISE,
    RETURN,
    START,
    Held,
    Running,
    SegmentPath,
    Snapshot,
    YieldPoint,
)

MS, S = 1_000_000, 1_000_000_000
NOW = 1_763_856_000 * S


def snapshot(*points: YieldPoint, taken_ns: int = NOW) -> Snapshot:
    """Return a snapshot with yield points only."""
    return Snapshot(taken_ns, yield_points=points)


def suspended(
    place: str, age_ns: int, *, tasks: int = 1, waits: int = 0, waited_ns: int = 0
) -> YieldPoint:
    """Return a yield point whose oldest task has been suspended for ``age_ns``."""
    return yield_point(
        place,
        awaits="Future",
        suspended=tasks,
        oldest_suspension_ns=NOW - age_ns,
        wait_tasks=waits,
        waits=histogram(waits, sum_ns=waited_ns),
    )


def unhealthy() -> Snapshot:
    """Return a service with a problem of every kind."""
    handler = "aiohttp.web_protocol.RequestHandler._handle_request"
    return Snapshot(
        NOW,
        segment_paths=(SegmentPath("shop.mail.send", "shop/mail.py:12 send", RAISE, 2, MS),),
        held=(
            Held(handler, "shop/db.py:30 Pool.check", 6, 60 * MS),
            Held(handler, "shop/search.py:40 score > difflib.ratio", 190, 1_900 * MS),
        ),
        loops=(
            replace(
                loop(start_delay=histogram(4, sum_ns=6 * MS), blocking_ns=1_900 * MS),
                running=Running("shop.report.build", 3_200 * MS),
            ),
        ),
        coroutines=(
            coroutine("shop.mail.send", wall={"completed": histogram(7), "failed": histogram(2)}),
            coroutine("shop.main"),
            coroutine(
                "shop.stock.ask",
                destroyed_pending=1,
                wall={"cancelled": histogram(3), "failed": histogram(1)},
            ),
        ),
        yield_points=(
            yield_point(
                "shop/main.py:9 main",
                coroutine="shop.main",
                awaits="asyncio.Event.wait",
                suspended=1,
                oldest_suspension_ns=NOW - 60 * S,
            ),
            yield_point(
                "shop/db.py:24 Pool.acquire",
                coroutine=handler,
                awaits="asyncio.Semaphore.acquire",
                segments=histogram(30, sum_ns=60 * MS),
                waits=histogram(0, 0, 30, sum_ns=13_500 * MS),
                suspended=7,
                oldest_suspension_ns=NOW - 900 * MS,
            ),
            yield_point(
                "shop/search.py:42 rank",
                coroutine=handler,
                segments=histogram(0, 20, 20, sum_ns=2_280 * MS),
                waits=histogram(40, sum_ns=20 * MS),
                blocking_ns=1_900 * MS,
                segment_max_ns=90 * MS,
            ),
            yield_point(
                "shop/pay.py:99 confirm",
                coroutine="shop.pay.settle",
                awaits="Future",
                waits=histogram(0, 300, sum_ns=1_500 * MS),
                wait_max_ns=17 * MS,
                suspended=3,
                oldest_suspension_ns=NOW - 41_200 * MS,
            ),
        ),
    )


def test_table_in_full() -> None:
    """Every list begins with its worst row, under headings that name the unit.

    The block in progress is at the top.
    """
    expected = Path(__file__).with_name("hotspots.txt").read_text()
    assert expected == find_hotspots(unhealthy()).table(140) + "\n"


def test_table_of_an_interval_shows_shares() -> None:
    """With an earlier snapshot the table shows the interval and shares of the loop's time."""
    lines = find_hotspots(unhealthy(), since=Snapshot(NOW - 5 * S)).table(140).splitlines()
    assert [
        "HOTSPOTS in the last 5.0 s",
        "loop MainThread: 38.0 % of the time in blocking segments, mean start delay 1.500 ms",
    ] == lines[:2]
    assert "   2.280     45.6   57.000  90.000     40    1.900  shop/search.py:42 rank" in lines[12]


IN_80_COLUMNS = """\
active s  share %  mean ms  max ms  count  block s
          yield point  awaits  coroutine
   2.280        -   57.000   0.000     40    0.000
          shop/a/long/path/to/search.py:42 Searcher.rank
          asyncio.sleep
          shop.orders.handle
""".splitlines()
IN_100_COLUMNS = """\
active s  share %  mean ms  max ms  count  block s  yield point
          awaits  coroutine
   2.280        -   57.000   0.000     40    0.000  shop/a/long/path/to/search.py:42 Searcher.rank
          asyncio.sleep  shop.orders.handle
""".splitlines()


def test_narrow_table_has_all_names_in_full() -> None:
    """Names that find no room beside the numbers are on the next lines of their row."""
    point = yield_point(
        "shop/a/long/path/to/search.py:42 Searcher.rank",
        segments=histogram(40, sum_ns=2_280 * MS),
        suspended=1,
    )
    found = find_hotspots(snapshot(point))
    assert IN_80_COLUMNS == found.table(80).splitlines()[5:11]
    assert IN_100_COLUMNS == found.table(100).splitlines()[5:9]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_rows_that_differ_in_one_name_can_be_told_apart(width: int) -> None:
    """Nothing of a name is left out, however long it is."""
    names = [f"shop/{kind}/{'deep/' * 30}x.py:1 f" for kind in ("orders", "stocks")]
    points = [yield_point(name, segments=histogram(1, sum_ns=MS)) for name in names]
    text = find_hotspots(snapshot(*points)).table(width)
    written = "".join(line.strip() for line in text.splitlines())
    assert [True, True] == [name in written for name in names]


@pytest.mark.parametrize("width", [80, 100, 120, 140])
def test_no_line_is_wider_than_asked(width: int) -> None:
    """The rows of a table fit its width, whatever the names are."""
    assert [] == [
        line for line in find_hotspots(unhealthy()).table(width).splitlines() if len(line) > width
    ]


@pytest.mark.parametrize(("terminal", "used"), [("20", 80), ("97", 97), ("500", 140)])
def test_text_follows_the_terminal(
    terminal: str, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``str()`` is as wide as the terminal, between 80 and 140 columns."""
    monkeypatch.setenv("COLUMNS", terminal)
    found = find_hotspots(unhealthy())
    assert found.table(used) == str(found)


def test_names_are_shown_as_ascii() -> None:
    """A name that is not printable ASCII is escaped, which keeps encoding and layout intact."""
    text = find_hotspots(
        snapshot(yield_point("größe.py:1 f\nx", segments=histogram(1, sum_ns=1)))
    ).table()
    assert text.isascii()
    assert r"gr\xf6\xdfe.py:1 f\nx" in text


def test_an_idle_process_has_no_hotspots() -> None:
    """The table says that the lists are empty."""
    assert [
        "HOTSPOTS since the start",
        "",
        "WHICH LINES HOLD THE LOOP: no samples",
        "",
        "WHO BURNS THE LOOP: nobody",
        "",
        "WHO WAITS LONGEST: nobody",
        "",
        "WHO IS STUCK: nobody",
        "",
        "WHO FAILS: nobody",
    ] == str(find_hotspots(snapshot(yield_point()))).splitlines()


def test_burners_are_ordered_by_loop_time() -> None:
    """The largest total comes first, however short its segments are; ``top`` cuts the list."""
    points = [
        yield_point("one long", segments=histogram(0, 0, 1, sum_ns=500 * MS), blocking_ns=500 * MS),
        yield_point("none"),
        yield_point("many short", segments=histogram(9_000, sum_ns=900 * MS)),
        yield_point("few", segments=histogram(2, sum_ns=MS)),
    ]
    assert (
        Burner(
            "shop.orders.handle", "many short", "asyncio.sleep", 900 * MS, None, 100_000.0, 9_000, 0
        ),
        Burner(
            "shop.orders.handle",
            "one long",
            "asyncio.sleep",
            500 * MS,
            None,
            500.0 * MS,
            1,
            500 * MS,
        ),
    ) == find_hotspots(snapshot(*points), top=2).burners


def test_waiters_are_ordered_by_mean_wait() -> None:
    """The longest mean wait comes first, with the tasks that are suspended there now.

    Places where no wait has ended are not listed.
    """
    points = [
        yield_point("often", waits=histogram(0, 90, sum_ns=900 * MS), suspended=4),
        yield_point("long", waits=histogram(0, 0, 2, sum_ns=400 * MS)),
        suspended("never came back", 5 * S),
    ]
    assert (
        Waiter("shop.orders.handle", "long", "asyncio.sleep", 200.0 * MS, 2, 0),
        Waiter("shop.orders.handle", "often", "asyncio.sleep", 10.0 * MS, 90, 4),
    ) == find_hotspots(snapshot(*points)).waiters


def test_stuck_lists_the_unusually_old_before_the_merely_old() -> None:
    """Tasks that the alert would call stuck come first, then those that few others show as unusual.

    Older waits, at places where that is normal or unknown, follow.
    """
    points = [
        suspended("forever by design", 900 * S),
        suspended("as usual", 30 * S, waits=3, waited_ns=90 * S),
        suspended("lost", 5 * S, tasks=2, waits=100, waited_ns=S),
        suspended("just under", 20 * S, waits=1, waited_ns=S),
        suspended("just over", 20 * S + 1, waits=1, waited_ns=S),
    ]
    ended = coroutine("shop.orders.handle", wall={"completed": histogram(100)})
    stuck = find_hotspots(replace(snapshot(*points), coroutines=(ended,))).stuck
    assert ["lost", "just over", "forever by design", "as usual", "just under"] == [
        row.yield_point for row in stuck
    ]
    lost = ("shop.orders.handle", "lost", "Future", 5 * S, 10.0 * MS, 500.0, 2)
    assert Stuck(*lost, unusual=True, stuck=True) == stuck[0]
    assert (stuck[1].unusual, stuck[1].stuck) == (True, False)
    old = ("shop.orders.handle", "forever by design", "Future", 900 * S, 0.0, None, 1)
    assert Stuck(*old) == stuck[2]


def test_younger_than_a_second_is_not_stuck() -> None:
    """A suspension is stuck from one second on, however unusual it is."""
    points = suspended("young", S - 1, waits=1_000, waited_ns=1_000), suspended("a second", S)
    assert ["a second"] == [row.yield_point for row in find_hotspots(snapshot(*points)).stuck]


def test_endings_list_failures_first() -> None:
    """Failures come before tasks destroyed pending, and these before cancellations.

    Coroutines whose tasks all complete are not listed.
    """
    entries = (
        coroutine("fine", wall={"completed": histogram(50)}),
        coroutine("cancelled", wall={"cancelled": histogram(9)}),
        coroutine("destroyed", destroyed_pending=1),
        coroutine(
            "failed",
            wall={"completed": histogram(4), "failed": histogram(0, 2), "cancelled": histogram(1)},
        ),
    )
    assert (
        Endings("failed", 2, 1, 0, 4),
        Endings("destroyed", 0, 0, 1, 0),
        Endings("cancelled", 0, 9, 0, 0),
    ) == find_hotspots(Snapshot(NOW, coroutines=entries)).endings


def test_what_failed_is_named_by_where_most_had_waited_last() -> None:
    """Only the tasks of the interval count, and only those that raised."""

    def taken(*paths: tuple[str, str, int]) -> Snapshot:
        return Snapshot(
            NOW,
            coroutines=(
                coroutine("mail", wall={"failed": histogram(sum(row[2] for row in paths))}),
            ),
            segment_paths=tuple(
                SegmentPath("mail", began_at, ended_at, segments, MS)
                for began_at, ended_at, segments in paths
            ),
        )

    before = taken(("mail.py:4 mail", RAISE, 9), ("mail.py:6 mail", RETURN, 90))
    now = taken(("mail.py:4 mail", RAISE, 10), (START, RAISE, 2), ("mail.py:6 mail", RETURN, 99))
    assert ["mail.py:4 mail"] == [row.after for row in find_hotspots(now).endings]
    assert [START] == [row.after for row in find_hotspots(now, since=before).endings]


@pytest.mark.parametrize(("elapsed_ns", "reported"), [(100 * MS - 1, False), (100 * MS, True)])
def test_the_block_in_progress_is_reported_from_the_threshold_on(
    elapsed_ns: int,
    reported: bool,  # noqa: FBT001
) -> None:
    """A segment in progress is shown once it is at the threshold."""
    running = Running("shop.report.build", elapsed_ns)
    (state,) = find_hotspots(Snapshot(NOW, loops=(replace(loop(), running=running),))).loops
    assert (running if reported else None) == state.blocked


def test_the_blocking_threshold_can_be_given() -> None:
    """It decides whether the segment in progress blocks."""
    blocked = Snapshot(NOW, loops=(replace(loop(), running=Running("shop.report.build", 60 * MS)),))
    assert find_hotspots(blocked, blocking_threshold_ns=50 * MS).loops[0].blocked is not None


def test_an_interval_counts_only_what_was_added() -> None:
    """With ``since``, rows have what was added after it.

    What did nothing in the interval is not listed.
    """
    before = Snapshot(
        NOW - 10 * S,
        loops=(loop(blocking_ns=S, start_delay=histogram(3, sum_ns=9)),),
        coroutines=(
            coroutine("mail", destroyed_pending=1, wall={"failed": histogram(5)}),
            coroutine("quiet", wall={"failed": histogram(5)}),
        ),
        yield_points=(
            yield_point(
                "busy",
                segments=histogram(5, sum_ns=S),
                waits=histogram(5, sum_ns=5 * S),
                blocking_ns=S,
            ),
            yield_point(
                "quiet", segments=histogram(7, sum_ns=9 * S), waits=histogram(7, sum_ns=9 * S)
            ),
        ),
    )
    now = Snapshot(
        NOW,
        loops=(loop(blocking_ns=3 * S, start_delay=histogram(5, sum_ns=15)),),
        coroutines=(
            coroutine("mail", destroyed_pending=1, wall={"failed": histogram(7)}),
            before.coroutines[1],
        ),
        yield_points=(
            yield_point(
                "busy",
                segments=histogram(9, sum_ns=3 * S),
                waits=histogram(6, sum_ns=7 * S),
                blocking_ns=2 * S,
            ),
            before.yield_points[1],
            yield_point("new", segments=histogram(1, sum_ns=S)),
        ),
    )
    labels = "shop.orders.handle", "busy", "asyncio.sleep"
    assert Hotspots(
        interval_ns=10 * S,
        loops=(LoopState("MainThread", 2 * S, 0.2, 3.0, None),),
        burners=(
            Burner(*labels, 2 * S, 0.2, S / 2, 4, S),
            Burner("shop.orders.handle", "new", "asyncio.sleep", S, 0.1, S, 1, 0),
        ),
        waiters=(Waiter(*labels, 2.0 * S, 1, 0),),
        stuck=(),
        endings=(Endings("mail", 2, 0, 0, 0),),
    ) == find_hotspots(now, since=before)


def test_what_is_stuck_is_judged_by_the_whole_life() -> None:
    """The usual wait at a place is the mean of all waits there, not of those in the interval."""
    now = snapshot(suspended("lost", 50 * S, waits=10, waited_ns=10 * S))
    assert [50.0] == [
        row.ratio for row in find_hotspots(now, since=replace(now, taken_ns=NOW - S)).stuck
    ]


def test_counters_that_were_reset_count_in_full() -> None:
    """After a restart, or with other buckets, the earlier numbers are ignored, as in ``rate()``."""
    before = snapshot(
        yield_point("restarted", segments=histogram(9, sum_ns=9 * S), blocking_ns=9 * S),
        yield_point("rebucketed", segments=histogram(1, sum_ns=S, bounds_ns=BOUNDS_NS[:1])),
        taken_ns=NOW - 10 * S,
    )
    now = snapshot(
        yield_point("restarted", segments=histogram(1, 1, sum_ns=3 * S), blocking_ns=3 * S),
        yield_point("rebucketed", segments=histogram(2, sum_ns=2 * S)),
    )
    burners = find_hotspots(now, since=before).burners
    assert [("restarted", 3 * S, 3 * S), ("rebucketed", 2 * S, 0)] == [
        (row.yield_point, row.active_ns, row.blocking_ns) for row in burners
    ]


def test_shares_are_unknown_when_the_clock_was_set_back() -> None:
    """An interval that is not positive is not shown and has no shares."""
    now = snapshot(yield_point(segments=histogram(1, sum_ns=S)))
    found = find_hotspots(now, since=snapshot(taken_ns=NOW + S))
    assert (None, None) == (found.interval_ns, found.burners[0].share)


@pytest.mark.parametrize("top", [0, -1])
def test_asking_for_no_rows_is_an_error(top: int) -> None:
    """The message quotes the number."""
    with pytest.raises(ValueError, match=f"top={top}: ask for at least 1 row"):
        find_hotspots(snapshot(), top)


def test_shares_are_of_the_time_of_all_loops() -> None:
    """With several loops they are told to be, and add up to at most 1."""
    loops = (*(replace(loop(name), process_id=7) for name in ("1", "2")), loop("gone"))
    points = [yield_point(name, segments=histogram(1, sum_ns=8 * S)) for name in ("a", "b")]
    now = Snapshot(NOW, loops=loops, yield_points=tuple(points))
    found = find_hotspots(now, since=snapshot(taken_ns=NOW - 10 * S))
    assert [0.8 / 2] * 2 == [row.share for row in found.burners]
    assert "share %: of the time of all loops that ran, together" in str(found)


def test_shares_of_segments_that_began_before_add_up_to_one() -> None:
    """A segment counts where it ends, which may be long after the interval began."""
    points = [yield_point(name, segments=histogram(1, sum_ns=15 * S)) for name in ("a", "b")]
    found = find_hotspots(
        replace(snapshot(*points), loops=(loop(blocking_ns=30 * S),)),
        since=snapshot(taken_ns=NOW - 10 * S),
    )
    assert [0.5, 0.5, 1.0] == [
        *(row.share for row in found.burners),
        *(state.blocking_share for state in found.loops),
    ]


def test_waits_for_work_come_last() -> None:
    """Connections that are kept alive and idle workers hide no query."""
    points = [
        yield_point("aiohttp/web_protocol.py:1 start", waits=histogram(9, sum_ns=90 * S)),
        yield_point(
            "shop/mail.py:1 work", awaits="asyncio.Queue.get", waits=histogram(9, sum_ns=99 * S)
        ),
        yield_point("shop/db.py:1 query", waits=histogram(9, sum_ns=S)),
    ]
    found = find_hotspots(snapshot(*points), of_library=lambda name: name.startswith("aiohttp/"))
    assert ["shop/db.py:1 query", "shop/mail.py:1 work", "aiohttp/web_protocol.py:1 start"] == [
        row.yield_point for row in found.waiters
    ]


def test_an_empty_table_says_that_tasks_are_not_traced() -> None:
    """They were created before tracing began, which explains why nothing is listed."""
    text = str(find_hotspots(replace(snapshot(), untraced_tasks=12)))
    reason = "nobody that is traced; tasks created before the start are not traced: 12"
    assert f"WHO BURNS THE LOOP: {reason}" in text


def test_lines_that_hold_the_loop_are_ordered_by_their_time() -> None:
    """The line whose samples stand for the most time is the first; an interval has its own."""
    before = Snapshot(NOW - 10 * S, held=(Held("a", "a.py:1 old", 900, 9 * S),))
    now = Snapshot(
        NOW,
        held=(
            Held("a", "a.py:1 old", 901, 9 * S + 10 * MS),
            Held("a", "a.py:2 new > json.loads", 100, S),
            Held("b", "a.py:2 new > json.loads", 200, 2 * S),
        ),
    )
    assert (
        Holder("b", "a.py:2 new > json.loads", 2 * S, 0.2, 200),
        Holder("a", "a.py:2 new > json.loads", S, 0.1, 100),
    ) == find_hotspots(now, top=2, since=before).holders

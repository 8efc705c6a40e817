"""Random asyncio programs that know the truth about themselves, to compare recordings with."""

from __future__ import annotations

import asyncio
import sys
import types
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import strategies as st

from aiometrics.base.work_queue import Job
from aiometrics.pages.layout import HEADER, LOOP_STATS, STATUSES, WORD
from aiometrics.pages.page import Page
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATION
from aiometrics.requests.request import FinishedRequest, Request, request
from aiometrics.requests.tracer import set_tracer
from aiometrics.testing import TracedLoop, traced_loop

COMPLETED, FAILED, CANCELLED = STATUSES
EAGER = sys.version_info >= (3, 12)
EAGERLY: dict[str, Any] = {"eager_start": True} if EAGER else {}
Op = tuple[Any, ...]
Ops = list[Op]


class ProgramError(Exception):
    """The error that programs raise."""


@dataclass(eq=False)
class RequestTruth:
    """The truth about one request."""

    type: str
    entered_ns: int
    active_ns: int = 0
    background_ns: int = 0
    #: ``None`` while it lasts.
    wall_ns: int | None = None
    measured: Request | None = None
    #: Whether only the task that entered it took part, and in nothing else meanwhile. Its time is
    #: then that of the task.
    alone: bool = True

    def end(self, now_ns: int) -> None:
        """End the request, unless it has ended."""
        if self.wall_ns is None:
            self.wall_ns = now_ns - self.entered_ns


#: The request that the code works for, according to the programs themselves.
current_truth: ContextVar[RequestTruth | None] = ContextVar("current_truth", default=None)


@dataclass(eq=False)
class TaskTruth:
    """The truth about one task."""

    root: str
    started: bool = False
    #: How the coroutine ended; one that never began can only have been cancelled. A task that
    #: cancels itself and returns has completed.
    status: str = CANCELLED
    active_ns: int = 0
    children: list[asyncio.Task[None]] = field(default_factory=list)


class Delegate:
    """An awaitable of the application's own."""

    def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, None]:
        return self._coro.__await__()


@types.coroutine
def generator_based(coro: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """A coroutine of the old kind."""
    yield from coro


class Run:
    """One execution of a program on a traced loop.

    ``problems`` lists each disagreement of the gauges with the truth.
    """

    def __init__(self, traced: TracedLoop) -> None:
        self.traced = traced
        self.lives: dict[asyncio.Task[None], TaskTruth] = {}
        self.all_lives: list[TaskTruth] = []
        self.spawned: list[asyncio.Task[None]] = []
        self.visits: list[RequestTruth] = []
        self.finished: list[FinishedRequest] = []
        #: Scopes that were entered by hand, which any task may leave, and their unfinished
        #: requests.
        self.open: list[request] = []
        self.ongoing: dict[request, Request] = {}
        self.problems: list[str] = []
        self.blocking_ns = 0
        self._interrupted = 0
        traced.instrumentation.request_observers.every.append(self.finished.append)

    async def live(self, life: TaskTruth, ops: Ops) -> None:
        """Run the whole program of a task."""
        life.started = True
        try:
            await self.execute(life, ops)
        except BaseException as error:
            life.status = CANCELLED if isinstance(error, asyncio.CancelledError) else FAILED
            raise
        life.status = COMPLETED

    async def execute(self, life: TaskTruth, ops: Ops) -> None:  # noqa: C901, PLR0912 - one branch per operation is the clearest
        """Run ``ops`` as part of a task."""
        for op in ops:
            match op:
                case ("pass", ns):
                    self.work(life, ns)
                case ("yield",):
                    await asyncio.sleep(0)
                case ("sleep", ms):
                    await asyncio.sleep(ms / 1000)
                case ("call", "coroutine", inner):
                    await self.execute(life, inner)
                case ("call", "awaitable", inner):
                    await Delegate(self.execute(life, inner))
                case ("call", "generator", inner):
                    await generator_based(self.execute(life, inner))
                case ("iterate", inner, body):
                    async with aclosing(self.items(life, inner)) as items:
                        async for _ in items:
                            await self.execute(life, body)
                case ("spawn", how, root, inner):
                    life.children.append(self.spawn(how, root, inner))
                case ("group", root, inner, body):
                    async with asyncio.TaskGroup() as group:
                        life.children.append(self.admit(TaskTruth(root), group.create_task, inner))
                        await self.execute(life, body)
                case ("wait", which) if life.children:
                    await asyncio.wait([life.children[which % len(life.children)]])
                case ("join", which) if life.children:
                    await life.children[which % len(life.children)]
                case ("cancel", which) if self.spawned:
                    self.spawned[which % len(self.spawned)].cancel()
                case ("catch", inner):
                    with suppress(ProgramError):
                        await self.execute(life, inner)
                case ("request", name, inner):
                    with self.visit(name):
                        await self.execute(life, inner)
                case ("enter", name):
                    self.open.append(request(name))
                    self.ongoing[self.open[-1]] = self.open[-1].__enter__()
                case ("leave", which) if self.open:
                    left = self.open.pop(which % len(self.open))
                    self.ongoing.pop(left, None)
                    left.__exit__(None, None, None)
                case ("finish", "entered") if self.ongoing:
                    self.ongoing.popitem()[1].finish()
                case ("finish", "visited"):
                    self.finish()
                case ("raise",):
                    raise ProgramError
                case ("look",):
                    self.look()

    def work(self, life: TaskTruth, ns: int) -> None:
        """Let a task occupy the loop for ``ns``."""
        life.active_ns += ns
        visit = current_truth.get()
        if visit is not None and visit.wall_ns is None:
            visit.active_ns += ns
        elif visit is not None:
            visit.background_ns += ns
        self.traced.clock.advance_ns(ns)

    def finish(self) -> None:
        """Finish the request that the code works for, before its scope is left."""
        visit = current_truth.get()
        if visit is not None and visit.measured is not None:
            visit.measured.finish()
            visit.end(self.traced.clock.now_ns)

    @contextmanager
    def visit(self, name: str) -> Iterator[None]:
        """A request."""
        around = current_truth.get()
        if around is not None:
            around.alone = False
        self.visits.append(RequestTruth(name, self.traced.clock.now_ns))
        visit, token = self.visits[-1], current_truth.set(self.visits[-1])
        try:
            with request(name) as visit.measured:
                yield
        finally:
            visit.end(self.traced.clock.now_ns)
            current_truth.reset(token)

    async def items(self, life: TaskTruth, ops: Ops) -> AsyncGenerator[int, None]:
        """An asynchronous generator that awaits between its items."""
        await self.execute(life, ops)
        yield 1
        await self.execute(life, ops)
        yield 2

    def spawn(self, how: str, root: str, ops: Ops) -> asyncio.Task[None]:
        """A new task."""
        loop = self.traced.loop
        construct: dict[str, Callable[[Any], asyncio.Task[None]]] = {
            "create_task": asyncio.create_task,
            "ensure_future": asyncio.ensure_future,
            "Task": lambda coro: asyncio.Task(coro, loop=loop),
            "eager": lambda coro: asyncio.Task(coro, loop=loop, **EAGERLY),
        }
        return self.admit(TaskTruth(root), construct[how], ops)

    def admit(
        self, life: TaskTruth, construct: Callable[[Any], asyncio.Task[None]], ops: Ops
    ) -> asyncio.Task[None]:
        """Construct the task of ``life``, which may run at once, inside the current step."""
        visit = current_truth.get()
        if visit is not None:
            visit.alone = False
        self.all_lives.append(life)
        self._interrupted += 1
        task = construct(ROOTS[life.root](self, life, ops))
        self._interrupted -= 1
        self.lives[task] = life
        self.spawned.append(task)
        return task

    def look(self) -> None:
        """Compare the gauges and the blocking seconds with the truth in the middle of a step."""
        seen = self.traced.snapshot()
        done = {id(life) for task, life in self.lives.items() if task.done()}
        living = [life for life in self.all_lives if id(life) not in done]
        # Tasks that are being constructed eagerly are in progress, and so are those that construct
        # them.
        in_progress = 1 + self._interrupted
        live = {entry.coroutine: entry.live for entry in seen.coroutines if entry.live}
        self._expect("live", dict(Counter(name_of(life.root) for life in living)), live)
        suspended = sum(point.suspended for point in seen.yield_points)
        self._expect("suspended", sum(life.started for life in living) - in_progress, suspended)
        self._expect(
            "blocking",
            sum(point.blocking_ns for point in seen.yield_points),
            seen.loops[0].blocking_ns,
        )
        self._expect(
            "blocking does not fall",
            max(self.blocking_ns, seen.loops[0].blocking_ns),
            seen.loops[0].blocking_ns,
        )
        self.blocking_ns = seen.loops[0].blocking_ns
        visits = Counter(visit.type for visit in self.visits if visit.wall_ns is None)
        in_progress_now = {
            entry.request: entry.in_progress for entry in seen.requests if entry.in_progress
        }
        if not any(seen.scope_errors.values()):
            self._expect(
                "requests in progress",
                dict(visits + Counter(entered._type for entered in self.ongoing)),
                in_progress_now,
            )

    def _expect(self, what: str, expected: object, actual: object) -> None:
        if expected != actual:
            self.problems.append(f"{what}: {expected} != {actual}")

    def statuses(self) -> dict[tuple[str, str], int]:
        """Return how many coroutines ended, by name and status."""
        return dict(Counter((name_of(life.root), life.status) for life in self.all_lives))


async def red(run: Run, life: TaskTruth, ops: Ops) -> None:
    """The root coroutine of some tasks."""
    await run.live(life, ops)


async def green(run: Run, life: TaskTruth, ops: Ops) -> None:
    """The root coroutine of other tasks."""
    await run.live(life, ops)


async def main(run: Run, life: TaskTruth, ops: Ops) -> None:
    """The root of the first task: runs the program, then waits for all spawned tasks."""
    life.started = True
    with suppress(ProgramError, asyncio.CancelledError, ExceptionGroup):
        await run.execute(life, ops)
    while pending := [task for task in run.spawned if not task.done()]:
        with suppress(asyncio.CancelledError):
            await asyncio.wait(pending)
    life.status = COMPLETED
    for task in run.spawned:
        if not task.cancelled():
            task.exception()


ROOTS = {"red": red, "green": green}


def name_of(root: str) -> str:
    """The coroutine label of a root."""
    return f"{__name__}.{root}"


@dataclass(frozen=True)
class Result:
    """The truth about a program, and what was recorded."""

    run: Run
    main: TaskTruth
    snapshot: Snapshot
    #: What the recorder wrote, without the loop statistics.
    page: bytes


def recorded(page: Page) -> bytes:
    """The bytes of a page without its loop statistics and opening time, which are real."""
    memory, start = bytearray(page.memory), page.layout.loop_stats * WORD
    memoryview(memory).cast("q")[HEADER["opened_unix_ns"]] = 0
    return bytes(memory[:start] + memory[start + len(LOOP_STATS) * WORD :])


class KeepTimelines:
    """A tracer that has the steps of each request recorded."""

    def begin(self, request: Request) -> Request:
        """Trace this request too."""
        return request

    def recording(self, kept: Request) -> bool:  # noqa: ARG002 - as a tracer is asked
        """Whether steps are recorded: always."""
        return True

    def end(self, kept: Request, finished: FinishedRequest) -> Job:  # noqa: ARG002 - as a tracer is asked
        """Return a job that reads the timeline."""
        return partial(getattr, finished, "timeline")

    def leave(self, kept: Request) -> None:
        """Do nothing: nothing has to be restored."""


@contextmanager
def timelines_kept() -> Iterator[None]:
    """Record the steps of all requests meanwhile."""
    set_tracer(KeepTimelines())
    try:
        yield
    finally:
        set_tracer(None)


def run_program(
    ops: Ops, *, implementation: str = IMPLEMENTATION, eager: bool = False, **options: Any
) -> Result:
    """Run a program on a loop of its own.

    With ``eager``, with the eager task factory if there is one.
    """
    with timelines_kept(), traced_loop(implementation=implementation, **options) as traced:
        if eager and EAGER:
            traced.loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        run, life = Run(traced), TaskTruth("main")
        run.all_lives.append(life)
        # Before Python 3.13 the cancellation by a TaskGroup could arrive after the group.
        with suppress(asyncio.CancelledError):
            traced.run(main(run, life, ops))
        (slot,) = traced.instrumentation._slot_pool.all()
        return Result(run, life, traced.snapshot(), recorded(slot.page))


_ROOT = st.sampled_from(sorted(ROOTS))
_WHICH = st.integers(0, 7)
_TYPE = st.sampled_from(["GET /", "POST /orders"])
_LEAF = st.one_of(
    st.tuples(
        st.just("pass"),
        st.sampled_from([0, 1, 99_999, 100_000, 7_000_000, 60_000_000, 100_000_000, 250_000_000]),
    ),
    st.just(("yield",)),
    st.tuples(st.just("sleep"), st.sampled_from([1, 5, 200])),
    st.just(("look",)),
    st.just(("raise",)),
    st.tuples(st.sampled_from(["cancel", "wait", "join"]), _WHICH),
    st.just(("finish", "visited")),
)


_ENTER_OR_LEAVE = st.one_of(
    st.tuples(st.just("enter"), _TYPE),
    st.tuples(st.just("leave"), _WHICH),
    st.just(("finish", "entered")),
    st.just(("finish", "visited")),
)
#: Scopes that are entered and left anywhere: half of what is done.
_MISUSE = st.booleans().flatmap(lambda scope: _ENTER_OR_LEAVE if scope else _LEAF)


def _nested(inner: st.SearchStrategy[Ops]) -> st.SearchStrategy[Ops]:
    return st.lists(
        st.one_of(
            _LEAF,
            st.tuples(
                st.just("call"), st.sampled_from(["coroutine", "awaitable", "generator"]), inner
            ),
            st.tuples(st.just("iterate"), inner, inner),
            st.tuples(
                st.just("spawn"),
                st.sampled_from(["create_task", "ensure_future", "Task", "eager"]),
                _ROOT,
                inner,
            ),
            st.tuples(st.just("group"), _ROOT, inner, inner),
            st.tuples(st.just("catch"), inner),
            st.tuples(st.just("request"), _TYPE, inner),
        ),
        max_size=5,
    )


#: Programs: nested lists of operations.
PROGRAMS: st.SearchStrategy[Ops] = st.recursive(st.lists(_LEAF, max_size=4), _nested, max_leaves=14)
#: The same, with request scopes entered and left in any task and in any order.
MISUSES: st.SearchStrategy[Ops] = st.recursive(
    st.lists(_MISUSE, max_size=6), _nested, max_leaves=14
)

"""The observed program is not harmed.

Each scenario runs bare and traced, and everything that can be noticed must be the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import io
import logging
import re
import sys
import traceback
import types
import warnings
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import pytest
from support.tracing import every_loop

from aiometrics.recorder.implementation import IMPLEMENTATIONS

Notes = list[object]
Scenario = Callable[[Notes], Awaitable[None]]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Something that an application does. What it appends to its notes is compared."""
    SCENARIOS.append(function)
    return function


class Listener(logging.Handler):
    """Keeps what asyncio logs."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            text += "".join(frames(record.exc_info[1]))
        self.notes.append(f"log: {stable(text)}")


def stable(text: str) -> str:
    """``text`` without addresses and numbers of tasks, which differ between runs."""
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "#", text)


def without_recorder(notes: Notes) -> Notes:
    """Stacks without frames of other files.

    The recorder in Python is on the stack, and asyncio cuts stacks at a certain depth.
    """
    elsewhere = rf' *File "(?!{re.escape(__file__)})[^"]*", line .*\n(?:    .*\n)*'
    return [re.sub(elsewhere, "", note) if isinstance(note, str) else note for note in notes]


def frames(error: BaseException) -> list[str]:
    """The functions in a traceback, except those of the recorder in Python.

    That is always part of the traceback.
    """
    found = traceback.extract_tb(error.__traceback__)
    return [
        f" {frame.name}" for frame in found if not frame.filename.endswith("recorder/traced.py")
    ]


def observe(function: Scenario, tracing: AbstractContextManager[Any], *, debug: bool) -> Notes:
    """Everything that can be noticed about one run."""
    notes: Notes = []
    logger, listener = logging.getLogger("asyncio"), Listener(notes)
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda what: notes.append(f"unraisable: {what.exc_value!r}"),
    )
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught, tracing:
            warnings.simplefilter("always")
            with asyncio.Runner(debug=debug) as runner:
                runner.get_loop().slow_callback_duration = 3600.0
                try:
                    runner.run(function(notes))  # type: ignore[arg-type]
                except BaseException as error:  # noqa: BLE001 - whatever leaves the loop is compared
                    notes.append(("left", type(error), error.args, frames(error)))
            gc.collect()
        notes.extend(f"warning: {stable(str(warning.message))}" for warning in caught)
    finally:
        logger.removeHandler(listener)
        sys.unraisablehook = hook
    return notes


@scenario
async def an_exception_that_nobody_retrieves(notes: Notes) -> None:
    """A failed task is logged when it is collected."""

    async def fails() -> None:
        raise ValueError("unseen")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    del task
    gc.collect()
    notes.append("collected")


@scenario
async def a_coroutine_that_nobody_awaits(notes: Notes) -> None:
    """A coroutine that is never awaited causes a warning where it is dropped."""

    async def dropped() -> None:
        pass

    dropped()  # type: ignore[unused-coroutine]
    notes.append("dropped")


@scenario
async def a_task_destroyed_while_pending(notes: Notes) -> None:
    """A pending task is logged, and its coroutine closed, when its cycle is collected."""

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except GeneratorExit:
            notes.append("closed")
            raise

    asyncio.create_task(waits())  # type: ignore[unused-awaitable] # noqa: RUF006 - that nobody holds it is the point
    await asyncio.sleep(0)
    gc.collect()
    notes.append("collected")


async def a_task_that_never_starts(notes: Notes) -> None:
    """The loop is closed while a task is pending."""

    async def never() -> None:
        notes.append("started")

    loop = asyncio.new_event_loop()
    task = loop.create_task(never())
    loop.close()
    del task, loop
    gc.collect()
    notes.append("collected")


SCENARIOS.append(a_task_that_never_starts)


@scenario
async def cancellation(notes: Notes) -> None:
    """Cancelled tasks have messages and counters, and may refuse to be cancelled."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            assert task is not None
            notes.append(("caught", error.args, task.cancelling(), task.uncancel()))
        return "survived"

    async def obedient() -> None:
        await asyncio.sleep(60)

    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(stubborn()),
        asyncio.create_task(obedient()),
        asyncio.create_task(obedient()),
    ]
    await asyncio.sleep(0)
    fresh = asyncio.create_task(obedient())
    notes.extend(task.cancel(f"because {number}") for number, task in enumerate([*tasks, fresh]))
    for task in [*tasks, fresh]:
        try:
            notes.append(await task)
        except asyncio.CancelledError as error:
            notes.append(("cancelled", error.args, task.cancelled(), frames(error)))
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    except TimeoutError as error:
        notes.append(("timeout", frames(error), type(error.__cause__)))
    with suppress(TimeoutError):
        await asyncio.wait_for(obedient(), 0)


@scenario
async def errors(notes: Notes) -> None:
    """Exceptions keep types, identities, causes and tracebacks."""

    async def inner() -> None:
        await asyncio.sleep(0)
        try:
            int("inner")
        except ValueError as error:
            raise ValueError("outer") from error

    async def outer() -> None:
        await inner()

    async def stops() -> None:
        raise StopIteration("too early")

    for function in (outer, stops):
        task = asyncio.create_task(function())
        try:
            await task
        except Exception as error:  # noqa: BLE001 - all of it is compared
            notes.append(
                (
                    type(error),
                    error.args,
                    frames(error),
                    type(error.__cause__),
                    error is task.exception(),
                )
            )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(outer())
            group.create_task(asyncio.sleep(60))
    except* ValueError as found:
        notes.append([(type(error), frames(error)) for error in found.exceptions])
    notes.append(
        await asyncio.gather(asyncio.sleep(0, 7), asyncio.create_task(asyncio.sleep(0, 8)))
    )


@scenario
async def an_interrupt(notes: Notes) -> None:
    """``KeyboardInterrupt`` leaves the loop through the task that it hits."""

    async def interrupted() -> None:
        raise KeyboardInterrupt("now")

    task = asyncio.create_task(interrupted())
    await asyncio.wait([task])
    notes.append("not reached")


@scenario
async def context_variables(notes: Notes) -> None:
    """Each task has its own copy of the context, or the one that it is given."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def changes(value: int) -> int:
        variable.set(variable.get() + value)
        await asyncio.sleep(0)
        return variable.get()

    given = contextvars.copy_context()
    variable.set(10)
    notes.append(
        await asyncio.gather(
            asyncio.create_task(changes(1)), asyncio.create_task(changes(2), context=given)
        )
    )
    notes.append((variable.get(), given[variable]))


@scenario
async def what_tasks_say_of_themselves(notes: Notes) -> None:
    """Tasks have the same ``repr``, stack, state and coroutine attributes in every state."""

    async def leaf() -> None:
        await asyncio.get_running_loop().create_future()

    async def works() -> None:
        notes.append(describe(task))
        await leaf()

    def describe(task: asyncio.Task[Any]) -> object:
        coro: Any = task.get_coro()
        text = io.StringIO()
        task.print_stack(file=text)
        notes.append(stable(text.getvalue()))
        return (
            stable(repr(task)),
            stable(repr(coro)),
            [
                frame.f_code.co_name
                for frame in task.get_stack()
                if frame.f_code.co_filename == __file__
            ],
            inspect.getcoroutinestate(coro),
            sorted(inspect.getcoroutinelocals(coro)),
            (
                asyncio.iscoroutine(coro),
                inspect.iscoroutine(coro),
                inspect.isawaitable(coro),
                isinstance(coro, types.CoroutineType),
            ),
            (
                coro.__name__,
                coro.__qualname__,
                coro.cr_code.co_name,
                coro.cr_running,
                stable(repr(coro.cr_await)),
            ),
            (
                coro.cr_origin is None,
                coro.cr_frame is None,
                hash(coro) == hash(coro),
                [coro] == [coro],
                bool(coro),
            ),
            [hasattr(coro, name) for name in ("cr_suspended", "gi_frame", "ag_await", "anything")],
        )

    task = asyncio.create_task(works())
    notes.append(describe(task))
    await asyncio.sleep(0)
    notes.append(describe(task))
    task.get_coro().__name__ = "renamed"  # type: ignore[union-attr]
    notes.append(stable(repr(task.get_coro())))
    task.cancel()
    await asyncio.wait([task])
    notes.append(describe(task))


@scenario
async def where_tasks_come_from(notes: Notes) -> None:
    """In debug mode a task knows the line that created it, and shows no frame of ours."""

    async def works() -> None:
        await asyncio.sleep(0)

    class Own(asyncio.Task[None]):
        """A task type of the application's own."""

    loop = asyncio.get_running_loop()
    tasks: list[Any] = [
        asyncio.create_task(works()),
        asyncio.ensure_future(works()),
        loop.create_task(works()),
    ]
    tasks += [
        asyncio.Task(works(), loop=loop),
        Own(works(), loop=loop),
        asyncio.gather(works())._children[0],  # type: ignore[attr-defined]
    ]
    async with asyncio.TaskGroup() as group:
        tasks.append(group.create_task(works()))
    await asyncio.wait(tasks)
    for task in tasks:
        source = task._source_traceback or []
        notes.append([(frame.name, frame.lineno) for frame in source][-1:])
        notes.append([frame.lineno for frame in source if frame.filename == __file__][-1:])


@scenario
async def what_is_freed_when(notes: Notes) -> None:
    """Tasks, coroutines, locals and errors are freed as early as when untraced."""

    class Resource:
        """An object that allows weak references."""

    gone: list[str] = []

    def watch(name: str, target: Any) -> None:
        weakref.finalize(target, gone.append, name)

    async def uses(resource: Resource, how: str) -> None:
        await asyncio.sleep(0)
        if how == "raises":
            raise ValueError(resource)
        if how == "waits":
            await asyncio.sleep(60)

    gc.disable()
    try:
        for how in ("returns", "raises", "waits"):
            resource = Resource()
            task = asyncio.create_task(uses(resource, how))
            watch(f"resource {how}", resource)
            watch(f"task {how}", task)
            watch(f"coroutine {how}", task.get_coro())
            del resource
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            notes.append((how, "ran", sorted(gone)))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            notes.append((how, "done", sorted(gone)))
            del task
            await asyncio.sleep(0)
            notes.append((how, "dropped", sorted(gone)))
    finally:
        gc.enable()


@scenario
async def coroutines_driven_by_hand(notes: Notes) -> None:
    """A task's coroutine behaves the same when other code calls send, throw or close."""

    async def works() -> str:
        try:
            await asyncio.sleep(0)
        except ValueError:
            await asyncio.sleep(0)
        return "done"

    def attempt(function: Callable[..., Any], *arguments: Any) -> None:
        try:
            notes.append(("gave", function(*arguments)))
        except BaseException as error:  # noqa: BLE001 - all of it is compared
            notes.append((type(error), str(error), getattr(error, "value", None)))

    tasks = [asyncio.create_task(works()) for _ in range(4)]
    for task, steps in zip(tasks, ["send", "throw", "close", "again"], strict=True):
        coro: Any = task.get_coro()
        if steps == "again":
            attempt(coro.send, "too early")
        attempt(coro.send, None)
        if steps == "throw":
            attempt(coro.throw, ValueError("thrown"))
        if steps == "close":
            attempt(coro.close)
        attempt(coro.send, None)
        attempt(coro.send, None)
        attempt(coro.close)
    await asyncio.wait(tasks)
    notes.append([type(task.exception()) for task in tasks])


@scenario
async def mistakes(notes: Notes) -> None:
    """Mistakes that asyncio itself reports are reported the same."""

    @types.coroutine
    def yields(value: object) -> Generator[object, None, None]:
        yield value

    async def bad(value: object) -> None:
        await yields(value)

    async def itself() -> None:
        await own

    async def twice() -> None:
        pass

    own = asyncio.create_task(itself())
    coro = twice()
    tasks: list[asyncio.Task[None]] = [
        asyncio.create_task(bad(3)),
        asyncio.create_task(bad(bad)),
        own,
    ]
    tasks += [asyncio.create_task(coro), asyncio.create_task(coro)]
    await asyncio.wait(tasks)
    notes.extend(stable(repr(task.exception())) for task in tasks)
    wrongs: list[Any] = [42, None, twice, [twice]]
    creators: list[Any] = [
        asyncio.create_task,
        asyncio.ensure_future,
        asyncio.Task,
        asyncio.get_running_loop().create_task,
    ]
    for wrong in wrongs:
        for create in creators:
            try:
                create(wrong)
            except TypeError as error:
                notes.append(stable(str(error)))
    construct: Any = asyncio.Task
    for arguments in ((), (coro, 1)):
        with pytest.raises(TypeError):
            construct(*arguments)


@scenario
async def tasks_of_other_tasks(notes: Notes) -> None:
    """The current task and the set of live tasks are the same."""

    async def works() -> str:
        current = asyncio.current_task()
        assert current is not None
        await asyncio.sleep(0)
        assert asyncio.current_task() is current
        return current.get_name()

    tasks = [asyncio.create_task(works(), name=name) for name in "abc"]
    notes.append(len(asyncio.all_tasks()))
    notes.append(await asyncio.gather(*tasks))
    notes.append(len(asyncio.all_tasks()))
    notes.append([isinstance(task, asyncio.Task) for task in tasks])
    notes.append(issubclass(type(tasks[0]), asyncio.Task))


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("function", SCENARIOS, ids=lambda function: function.__name__)
def test_the_application_notices_no_difference(
    implementation: str, function: Scenario, *, debug: bool
) -> None:
    """Results, logs, warnings, tracebacks and the moments of freeing are as without tracing."""
    gc.collect()  # what other tests left, which would be noticed in the first run
    # Both from one line, because it is on the stack that is compared.
    bare, observed = (
        observe(function, tracing, debug=debug)
        for tracing in (nullcontext(), every_loop(implementation))
    )
    assert bare
    if implementation == "python":
        bare, observed = without_recorder(bare), without_recorder(observed)
    assert bare == observed


def test_the_c_recorder_is_not_on_the_stack() -> None:
    """Tracebacks have no line of aiometrics."""
    if "c" not in IMPLEMENTATIONS:
        pytest.skip("the C core is not built here")

    async def fails() -> None:
        raise ValueError

    with every_loop("c"), pytest.raises(ValueError) as caught:  # noqa: PT011 - it has no message
        asyncio.run(fails())
    files = {frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert not [file for file in files if "aiometrics" in file and "tests" not in file]


def test_memory_does_not_grow_with_the_tasks_that_come_and_go(implementation: str) -> None:
    """After thousands of tasks, however they end, as many objects are alive as before."""

    async def returns() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    async def crowd() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        tasks = [
            asyncio.create_task(function())
            for function in (returns, fails, waits)
            for _ in range(100)
        ]
        lost = [asyncio.create_task(waits()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks[200:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        del lost

    async def main() -> list[int]:
        alive: list[int] = []
        # Another thread of this process may have made something meanwhile, but not for each crowd.
        while len(alive) < 8 or (alive[-5] != alive[-1] and len(alive) < 40):
            await crowd()
            gc.collect()
            alive.append(len(gc.get_objects()))
        return alive

    with every_loop(implementation) as instrumentation:
        alive = asyncio.run(main())
        seen = instrumentation.snapshot()
    assert alive[-5] == alive[-1]
    assert 100 * len(alive) == sum(entry.destroyed_pending for entry in seen.coroutines)
    assert 0 == sum(entry.live for entry in seen.coroutines)

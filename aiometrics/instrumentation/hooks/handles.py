"""Times callbacks that are not steps of tasks, where asyncio's handles run them.

``Handle._run`` gets code that is compiled from asyncio's own source, with one expression changed:
the call that runs the callback. So stack traces, error messages and whatever else this version of
asyncio does there stay the same. uvloop has handles of its own, which cannot be hooked.
"""

from __future__ import annotations

import ast
import gc
import inspect
from asyncio import events
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any, ClassVar

from aiometrics.base.internal_errors import KnownLimit

Lookup = Callable[[Any], Any]

PROBE = "callbacks"
_HELPER = "__aiometrics__"
_QUALNAME = "Handle._run"
_RUNS_CALLBACK = "self._context.run(self._callback, *self._args)"
_AT_IMPORT = events.Handle._run


def _is_step(callback: Any) -> bool:
    """Whether a callback is asyncio's own, in C, for a step of a task, which is timed anyway."""
    kind = type(callback)
    return kind.__name__ == "TaskStepMethWrapper" or (
        kind is BuiltinFunctionType and callback.__name__ == "task_wakeup"
    )


class _TimedCallback:
    """Times the callback of ``handle``, which runs in ``with _TimedCallback(lookup, handle):``."""

    __slots__ = ("_callback", "_entered", "_recorder")

    def __init__(self, lookup: Lookup, handle: Any) -> None:
        self._callback = handle._callback
        self._recorder: Any = None if _is_step(self._callback) else lookup(handle._loop)

    def __enter__(self) -> None:
        self._entered = None if self._recorder is None else self._recorder.enter_callback()

    def __exit__(self, *exc_info: object) -> None:
        if self._entered is not None:
            self._recorder.leave_callback(self._entered, self._callback)


def _statement_at(place: ast.Expr, source: str) -> ast.stmt:
    """The statement ``source`` with the position of ``place``."""
    (statement,) = ast.parse(source).body
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    return statement


def _call_helper(place: ast.Expr) -> ast.stmt:
    """Return ``helper(self)``, to stand in place of the call."""
    return _statement_at(place, f"{_HELPER}(self)")


def _wrap_in_helper(place: ast.Expr) -> ast.stmt:
    """Return ``with helper(self):`` around the call."""
    block = _statement_at(place, f"with {_HELPER}(self): pass")
    block.body = [place]  # type: ignore[attr-defined]
    return block


class _ReplaceCallback(ast.NodeTransformer):
    def __init__(self, change: Callable[[ast.Expr], ast.stmt]) -> None:
        self._change = change
        self.changes = 0

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if ast.unparse(node) != _RUNS_CALLBACK:
            return node
        self.changes += 1
        return self._change(node)


@lru_cache(maxsize=2)
def _recompile_run(change: Callable[[ast.Expr], ast.stmt]) -> CodeType:
    """The code of ``Handle._run`` with the call that runs the callback changed.

    Raises ``KnownLimit`` if the source has no such call.
    """
    lines, first = inspect.getsourcelines(_run_of_asyncio())
    # Within a class, as there, so that columns stay what they are; and two lines are before it.
    handle: Any = ast.parse(f"class Handle:\n{''.join(lines)}").body[0]
    run = ast.increment_lineno(handle.body[0], first - 2)
    changed = _ReplaceCallback(change)
    changed.visit(run)
    if changed.changes != 1:
        raise KnownLimit(
            f"callbacks are not timed, because Handle._run of this asyncio does not contain "
            f"{_RUNS_CALLBACK!r}"
        )
    module = ast.fix_missing_locations(ast.Module([run], []))
    code = compile(module, _run_of_asyncio().__code__.co_filename, "exec", dont_inherit=True)
    body = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return body.replace(co_qualname=_QUALNAME)


def _run_of_asyncio() -> FunctionType:
    """Return the function that asyncio defines as ``Handle._run``.

    Another tool may have replaced the method by a function that calls this one. Raises
    ``KnownLimit`` if there is no such function any more, as in programs that Nuitka has compiled.
    """
    function: FunctionType | None = next(filter(_is_of_asyncio, _candidates()), None)
    if function is None:
        found = events.Handle._run
        raise KnownLimit(f"callbacks are not timed, because Handle._run was replaced by {found!r}")
    return function


def _candidates() -> Iterator[Any]:
    """All objects, those first that are likely, or not listed after ``gc.freeze()``."""
    yield events.Handle._run
    yield _AT_IMPORT
    yield from gc.get_objects()


def _is_of_asyncio(obj: Any) -> bool:
    return (
        type(obj) is FunctionType
        and obj.__globals__ is vars(events)
        and obj.__code__.co_qualname == _QUALNAME
    )


class HandleHook:
    """Changes the function by which asyncio's handles run their callbacks.

    The function stays the same object, with other code. So it does not matter which other tools
    have wrapped it, or will: each calls what it found, and finds this.

    ``lookup(loop)`` returns the recorder of a loop, or ``None``. Several hooks may be installed;
    the last one times the callbacks. With the C core the function is no slower than asyncio's own.
    """

    _installed: ClassVar[list[HandleHook]] = []
    _original: ClassVar[CodeType | None] = None

    def __init__(self, core: Any, lookup: Lookup) -> None:
        self._function = _run_of_asyncio()
        self._helper: Callable[[Any], Any]
        if core is None:
            self._code = _recompile_run(_wrap_in_helper)
            self._helper = lambda handle: _TimedCallback(lookup, handle)
        else:
            core.hook_handles(events.Handle)
            self._code, self._helper = _recompile_run(_call_helper), core.run_handle

    def install(self) -> None:
        """Change the function."""
        if not self._installed:
            HandleHook._original = self._function.__code__
        self._installed.append(self)
        self._apply()

    def remove(self) -> None:
        """Let the hook installed before time the callbacks, or else restore the function."""
        if self not in self._installed:
            return
        self._installed.remove(self)
        if self._installed:
            self._installed[-1]._apply()
        elif self._original is not None:
            # The name stays: a loop of another thread may be about to call the helper.
            self._function.__code__ = self._original

    def _apply(self) -> None:
        self._function.__globals__[_HELPER] = self._helper
        self._function.__code__ = self._code

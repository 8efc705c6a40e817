"""Times callbacks that are not steps of tasks, where asyncio's handles run them.

``Handle._run`` is compiled again from asyncio's own source, with one expression changed: the call
that runs the callback. So stack traces, error messages and whatever else this version of asyncio
does there stay the same. uvloop has handles of its own, which cannot be hooked.
"""

from __future__ import annotations

import ast
import inspect
from asyncio import events
from collections.abc import Callable
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

Lookup = Callable[[Any], Any]

PROBE = "callbacks"
_HELPER = "__aiometrics__"
_RUNS_CALLBACK = "self._context.run(self._callback, *self._args)"


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

    Raises ``RuntimeError`` if the source has no such call.
    """
    tree = ast.parse(inspect.getsource(events))
    handle = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Handle"
    )
    run = next(
        node for node in handle.body if isinstance(node, ast.FunctionDef) and node.name == "_run"
    )
    changed = _ReplaceCallback(change)
    changed.visit(run)
    if changed.changes != 1:
        raise RuntimeError(
            f"Handle._run of this asyncio does not contain {_RUNS_CALLBACK!r}: "
            "callbacks are not timed"
        )
    module = ast.fix_missing_locations(ast.Module([run], []))
    code = compile(module, events.Handle._run.__code__.co_filename, "exec", dont_inherit=True)
    body = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return body.replace(co_qualname=events.Handle._run.__qualname__)


class HandleHook:
    """Replaces the method by which asyncio's handles run their callbacks.

    ``lookup(loop)`` returns the recorder of a loop, or ``None``. With the C core the method is no
    slower than asyncio's own.
    """

    def __init__(self, core: Any, lookup: Lookup) -> None:
        self._replaced = events.Handle._run
        if core is None:
            code, helper = (
                _recompile_run(_wrap_in_helper),
                lambda handle: _TimedCallback(lookup, handle),
            )
        else:
            core.hook_handles(events.Handle)
            code, helper = _recompile_run(_call_helper), core.run_handle
        self._run = FunctionType(code, {**vars(events), _HELPER: helper}, self._replaced.__name__)
        self._run.__doc__ = self._replaced.__doc__
        self._run.__qualname__ = self._replaced.__qualname__

    def install(self) -> None:
        """Replace the method."""
        events.Handle._run = self._run  # type: ignore[method-assign]

    def remove(self) -> None:
        """Restore the method. Does nothing if something else has replaced ours since."""
        if events.Handle._run is self._run:
            events.Handle._run = self._replaced  # type: ignore[method-assign]

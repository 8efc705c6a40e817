"""Finds out which branches of some modules are taken: cases that take new ones are kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any, Self

_TOOL = "aiometrics fuzzing"


class Branches:
    """Collects the branches that are taken while it is entered.

    On Python 3.11, which cannot report them, there are none, and cases are mutated blindly.
    """

    def __init__(self, *modules: ModuleType) -> None:
        self._codes = [code for module in modules for code in _codes_of(module)]
        self._seen: set[tuple[CodeType, int, int]] = set()

    def __enter__(self) -> Self:
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            self._tool = next(tool for tool in range(6) if monitoring.get_tool(tool) is None)
            monitoring.use_tool_id(self._tool, _TOOL)
            kinds = (
                ("BRANCH_LEFT", "BRANCH_RIGHT")
                if hasattr(monitoring.events, "BRANCH_LEFT")
                else ("BRANCH",)
            )
            self._events = [getattr(monitoring.events, kind) for kind in kinds]
            for event in self._events:
                monitoring.register_callback(self._tool, event, self._took)
            for code in self._codes:
                monitoring.set_local_events(self._tool, code, sum(self._events))
        return self

    def __exit__(self, *exc_info: object) -> None:
        if sys.version_info >= (3, 12):
            for code in self._codes:
                sys.monitoring.set_local_events(self._tool, code, 0)
            for event in self._events:
                sys.monitoring.register_callback(self._tool, event, None)
            sys.monitoring.free_tool_id(self._tool)

    def __len__(self) -> int:
        """Return the number of branches that were taken so far."""
        return len(self._seen)

    def _took(self, code: CodeType, offset: int, destination: int) -> None:
        self._seen.add((code, offset, destination))


def _codes_of(module: ModuleType) -> Iterator[CodeType]:
    """Yield the code of all functions and methods that a module defines."""
    for found in vars(module).values():
        if getattr(found, "__module__", None) != module.__name__:
            continue
        for function in vars(found).values() if isinstance(found, type) else [found]:
            code = getattr(_bare(function), "__code__", None)
            if code is not None:
                yield from _nested(code)


def _bare(function: Any) -> Callable[..., Any]:
    """Return the function inside of a property or a class method."""
    bare: Callable[..., Any] = (
        getattr(function, "fget", None) or getattr(function, "__func__", None) or function
    )
    return bare


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)

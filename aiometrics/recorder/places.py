"""Names for places in code, and whose code it is. Called once per new place, never per step."""

from __future__ import annotations

import enum
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any

from aiometrics.recorder.await_chain import code_of, frame_of, peek, type_names

#: Coroutines of other tools that only wrap the application's own, which they hold, or what makes it, in the variable named here.
_WRAPPERS = {
    ("opentelemetry.instrumentation.asyncio", "trace_coroutine"): "coro",
    ("sentry_sdk.integrations.asyncio", "_task_with_sentry_span_creation"): "coro",
    ("ddtrace.contrib.internal.asyncio.patch", "traced_coro"): "coro",
    ("aiomonitor.monitor", "_coro_wrapper"): "coro",
    ("uvloop", "wrapper"): "main",
    ("anyio._backends._asyncio", "wrapper"): "func",
    ("anyio._backends._asyncio", "_run_wrapped_task"): "coro",
    ("anyio._core._tasks", "_run_coro"): "self",
    ("aiometrics.requests.request", "scoped_coroutine"): "function",
}
#: Programs that run somebody else's application as ``python -m``: being ``__main__`` does not make them the application.
_LAUNCHERS = frozenset(
    {
        "aiohttp",
        "aiometrics",
        "celery",
        "coverage",
        "daphne",
        "fastapi",
        "granian",
        "gunicorn",
        "hypercorn",
        "opentelemetry",
        "pytest",
        "uvicorn",
    }
)
_STANDARD_LIBRARY = tuple(
    {
        os.path.join(os.path.realpath(sysconfig.get_path(name)), "")
        for name in ("stdlib", "platstdlib")
    }
    | {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")}
)
_SITE = ("site-packages", "dist-packages")


class Origin(enum.IntEnum):
    """Whose code it is; a yield point is the innermost frame of the highest origin in the await chain."""

    STANDARD_LIBRARY = 0
    LIBRARY = 1
    APPLICATION = 2


def _main_module() -> str:
    """The name under which the program was started with ``python -m``, else ``__main__``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "__main__" if spec is None else str(spec.name)


def main_package() -> str | None:
    """The top-level package that was started with ``python -m``, unless it is known to launch other people's applications."""
    top = _main_module().partition(".")[0]
    return None if top == "__main__" or top in _LAUNCHERS else top


def _within(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _without_source(module: str, code: CodeType) -> bool:
    """Whether code comes from a string, as a named tuple's or a data class's methods do; what was typed in is a program all the same."""
    typed_in = module == "__main__" and not hasattr(sys.modules.get("__main__"), "__file__")
    return code.co_filename.startswith("<") and not typed_in


def _origin_of_file(path: str) -> Origin:
    if any(part in _SITE for part in path.replace(os.sep, "/").split("/")):
        return Origin.LIBRARY
    return Origin.STANDARD_LIBRARY if path.startswith(_STANDARD_LIBRARY) else Origin.APPLICATION


def ours(module: str) -> bool:
    """Whether it is a module of aiometrics itself."""
    return _within(module, ("aiometrics",))


def _module_of(obj: Any) -> str:
    frame, code = frame_of(obj), code_of(obj)
    if frame is not None:
        code = frame.f_code
    return (
        _package_of(type(obj))
        if code is None
        else module_name(code, {} if frame is None else frame.f_globals)
    )


def _qualname_of(obj: Any) -> str:
    code = code_of(obj)
    return code.co_qualname if code is not None else type_name(type(obj))


def type_name(kind: type) -> str:
    """Top-level package and qualified name of a type; the name alone for those of Python itself."""
    package, name = _package_of(kind), type_names(kind)[1]
    return name if package in ("_asyncio", "builtins") else f"{package}.{name}"


def _package_of(kind: type) -> str:
    return type_names(kind)[0].partition(".")[0]


def relative_path(code: CodeType, module: str) -> str:
    """The file as seen from the import root: as many components as the module has, and ``__init__.py`` one more."""
    parts = code.co_filename.replace(os.sep, "/").split("/")
    depth = (_main_module() if module == "__main__" else module).count(".") + 1
    if parts[-1] == "__init__.py":
        depth += 1
    return "/".join(parts[-depth:])


def place(code: CodeType, line: int | None, module: str) -> str:
    """``path:line qualname``. Cython's frames know no line, or only the first."""
    return f"{relative_path(code, module)}:{line or code.co_firstlineno} {code.co_qualname}"


def called(code: CodeType, module: str) -> str:
    """The top-level package and qualified name of a function, for what only needs to be told apart."""
    return f"{module.partition('.')[0]}.{code.co_qualname}"


def module_name(code: CodeType, module_globals: Mapping[str, Any]) -> str:
    """The module in whose name a code object runs; if its globals do not say, its file's."""
    name = module_globals.get("__name__")
    return name if isinstance(name, str) else os.path.basename(code.co_filename).partition(".")[0]


class Places:
    """Tells application code from libraries and names what it is shown; see "yield point" in docs/metrics.md.

    ``application`` and ``library`` are module prefixes that override what the file's location says; ``library`` wins.
    """

    def __init__(self, application: Iterable[str] = (), library: Iterable[str] = ()) -> None:
        self._application = tuple(application)
        self._library = tuple(library)

    def origin(self, obj: Any) -> Origin:
        """Whose code the coroutine, generator or asynchronous generator ``obj`` runs."""
        return self.origin_of(_module_of(obj), code_of(obj))

    def origin_of(self, module: str, code: CodeType | None) -> Origin:
        """Whose code it is, by the module that it runs in; without Python code it is a library's.

        Code that was generated, or frozen into the interpreter, has no line that anybody could open: whoever called it is named instead.
        """
        if code is not None and _without_source(module, code):
            return Origin.STANDARD_LIBRARY
        if _within(module, self._library):
            return Origin.LIBRARY
        if _within(module, self._application):
            return Origin.APPLICATION
        if ours(module) or code is None:
            return Origin.LIBRARY
        return _origin_of_file(code.co_filename)

    def transparent(self, root: Any) -> bool:
        """Whether ``root`` is another tool's wrapper, so that its code says nothing about the task."""
        return self._wrapped_variable(root) is not None

    def coroutine(self, root: Any) -> str:
        """``module.qualname`` of a root coroutine, other tools' wrappers looked through."""
        subject = self._unwrap(root)
        if type(subject) is FunctionType:
            return f"{subject.__module__}.{subject.__code__.co_qualname}"
        return (
            f"{_module_of(subject)}.{_qualname_of(subject)}"
            if code_of(subject) is not None
            else self._foreign(subject)
        )

    def yield_point(self, owner: Any) -> str:
        """``path:line qualname`` of the await that ``owner`` is suspended at."""
        frame, code = frame_of(owner), code_of(owner)
        if frame is None or code is None:
            return self._foreign(owner)
        return place(code, frame.f_lineno, _module_of(owner))

    def awaits(self, callee: Any, yielded: Any) -> str:
        """What a yield point waits for: the top-level package and qualified name of ``callee``, the awaitable below the frame.

        A future's iterator says nothing, so the future itself, which is what the task ``yielded``, names it.
        """
        if callee is None:
            return "(yield)"
        code = code_of(callee)
        if code is not None:
            return called(code, _module_of(callee))
        if type_names(type(callee)) == ("_asyncio", "FutureIter"):
            return type_name(type(yielded))
        return self._foreign(callee)

    def _wrapped_variable(self, root: Any) -> str | None:
        code = code_of(root)
        return _WRAPPERS.get((_module_of(root), code.co_name)) if code is not None else None

    def _unwrap(self, root: Any) -> Any:
        for _ in range(len(_WRAPPERS)):
            variable, frame = self._wrapped_variable(root), frame_of(root)
            inner = (
                frame.f_locals.get(variable) if variable is not None and frame is not None else None
            )
            if inner is None or (callable(inner) and type(inner) is not FunctionType):
                return root
            # A handle of anyio holds the coroutine; where a task factory made the wrapper, it holds what we gave to that factory.
            root = peek(inner, "__wrapped__", "_coro") or inner
        return root

    @staticmethod
    def _foreign(obj: Any) -> str:
        """A name for an awaitable without Python code: its own qualified name if its type (Cython's) stores one, else its type's."""
        name = peek(obj, "__qualname__")
        return f"{_package_of(type(obj))}.{name}" if isinstance(name, str) else type_name(type(obj))

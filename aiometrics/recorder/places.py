"""Names places in code and tells whose code it is; asked once per new place, never per step."""

from __future__ import annotations

import enum
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from itertools import takewhile
from types import CodeType, FunctionType
from typing import Any

from aiometrics.recorder.await_chain import code_of, frame_of, peek, type_names

#: Coroutines of other tools that only wrap one of the application, by module and name, and the
#: variable that holds the wrapped coroutine or what makes it.
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
#: Programs that run an application with ``python -m``, and are not the application themselves.
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


class CodeOrigin(enum.IntEnum):
    """The origin of a piece of code.

    A yield point is the innermost frame of the highest origin in the chain.
    """

    STANDARD_LIBRARY = 0
    LIBRARY = 1
    APPLICATION = 2


def _main_module() -> str:
    """Return the module that was started with ``python -m``, or ``__main__``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "__main__" if spec is None else str(spec.name)


def main_package() -> str | None:
    """Return the top-level package that was started with ``python -m``, unless it is a launcher."""
    top = _main_module().partition(".")[0]
    return None if top == "__main__" or top in _LAUNCHERS else top


def _within(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _without_source(module: str, code: CodeType) -> bool:
    """Return whether code comes from a string, as the methods of a named tuple do.

    What was typed into an interactive interpreter counts as a program all the same.
    """
    typed_in = module == "__main__" and not hasattr(sys.modules.get("__main__"), "__file__")
    return code.co_filename.startswith("<") and not typed_in


def _origin_of_file(path: str) -> CodeOrigin:
    if any(part in _SITE for part in path.replace(os.sep, "/").split("/")):
        return CodeOrigin.LIBRARY
    return (
        CodeOrigin.STANDARD_LIBRARY
        if path.startswith(_STANDARD_LIBRARY)
        else CodeOrigin.APPLICATION
    )


def ours(module: str) -> bool:
    """Return whether ``module`` is part of aiometrics."""
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
    """Return the top-level package and qualified name of a type, or the name alone if built in."""
    package, name = _package_of(kind), type_names(kind)[1]
    return name if package in ("_asyncio", "builtins") else f"{package}.{name}"


def _package_of(kind: type) -> str:
    return _without_folders(type_names(kind)[0]).partition(".")[0]


def relative_path(code: CodeType, module: str) -> str:
    """Return the path of the file relative to where imports begin.

    It has the folders that are packages of the module. A file can be loaded under any name: then it
    has none, since the others say where the program is installed.
    """
    *folders, file = code.co_filename.replace(os.sep, "/").split("/")
    packages = (_main_module() if module == "__main__" else module).split(".")
    if file != "__init__.py":
        packages.pop()
    shared = takewhile(
        lambda pair: pair[0] == pair[1], zip(folders[::-1], packages[::-1], strict=False)
    )
    return "/".join([*[folder for folder, _ in shared][::-1], file])


def place(code: CodeType, line: int | None, module: str) -> str:
    """Return ``path:line qualname``. Frames of Cython know no line, or only the first one."""
    return f"{relative_path(code, module)}:{line or code.co_firstlineno} {code.co_qualname}"


def called(code: CodeType, module: str) -> str:
    """Return the top-level package and qualified name of a function, its name without a line."""
    return f"{module.partition('.')[0]}.{code.co_qualname}"


def module_name(code: CodeType, module_globals: Mapping[str, Any]) -> str:
    """Return the module that a code object runs in; if its globals do not say, the file's name."""
    name = module_globals.get("__name__")
    return (
        _without_folders(name)
        if isinstance(name, str)
        else os.path.basename(code.co_filename).partition(".")[0]
    )


def _without_folders(module: str) -> str:
    """Return the name of a module, of which a loader may have made the path of its file."""
    return module.replace(os.sep, "/").rpartition("/")[2]


class Places:
    """Tells application code from libraries, and names coroutines and yield points.

    ``application`` and ``library`` are prefixes of modules that override what the location of a
    file says; ``library`` wins. docs/metrics.md explains the names under "yield point".
    """

    def __init__(self, application: Iterable[str] = (), library: Iterable[str] = ()) -> None:
        self._application = tuple(application)
        self._library = tuple(library)

    def origin(self, obj: Any) -> CodeOrigin:
        """Return whose code a coroutine, generator or asynchronous generator runs."""
        return self.origin_of(_module_of(obj), code_of(obj))

    def origin_of(self, module: str, code: CodeType | None) -> CodeOrigin:
        """Return whose code it is, by the module that it runs in; a library's if it has none.

        Code that was generated, or frozen into the interpreter, has no line that one could open. It
        counts as the standard library's, so that its caller is named instead.
        """
        if code is not None and _without_source(module, code):
            return CodeOrigin.STANDARD_LIBRARY
        if _within(module, self._library):
            return CodeOrigin.LIBRARY
        if _within(module, self._application):
            return CodeOrigin.APPLICATION
        if ours(module) or code is None:
            return CodeOrigin.LIBRARY
        return _origin_of_file(code.co_filename)

    def transparent(self, root: Any) -> bool:
        """Return whether ``root`` is a tool's wrapper, whose code says nothing about the task."""
        return self._wrapped_variable(root) is not None

    def coroutine(self, root: Any) -> str:
        """Return ``module.qualname`` of a root coroutine, looking through tools' wrappers."""
        subject = self._unwrap(root)
        if type(subject) is FunctionType:
            module = module_name(subject.__code__, {"__name__": subject.__module__})
            return f"{module}.{subject.__code__.co_qualname}"
        return (
            f"{_module_of(subject)}.{_qualname_of(subject)}"
            if code_of(subject) is not None
            else self._foreign(subject)
        )

    def yield_point(self, owner: Any) -> str:
        """Return ``path:line qualname`` of the await where ``owner`` is suspended."""
        frame, code = frame_of(owner), code_of(owner)
        if frame is None or code is None:
            return self._foreign(owner)
        return place(code, frame.f_lineno, _module_of(owner))

    def awaits(self, callee: Any, yielded: Any) -> str:
        """Return what a yield point waits for: package and name of the awaitable below the frame.

        The iterator of a future says nothing, so the future itself, which the task ``yielded``,
        gives the name.
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
            # A handle of anyio holds the coroutine. A wrapper made by a task factory holds what the
            # factory got, which is a TracedCoroutine.
            root = peek(inner, "__wrapped__", "_coro") or inner
        return root

    @staticmethod
    def _foreign(obj: Any) -> str:
        """Return a name for an awaitable without Python code.

        That is its own qualified name if its type stores one, as Cython's does, else its type's.
        """
        name = peek(obj, "__qualname__")
        return f"{_package_of(type(obj))}.{name}" if isinstance(name, str) else type_name(type(obj))

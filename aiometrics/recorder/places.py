"""Names places in code and tells whose code it is; asked once per new place, never per step."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import takewhile
from types import CodeType, FunctionType
from typing import Any

from aiometrics.pages.snapshot import PATIENT
from aiometrics.recorder import wrappers
from aiometrics.recorder.await_chain import (
    code_of,
    frame_of,
    is_built_in,
    links,
    peek,
    type_names,
)
from aiometrics.recorder.files import file_of, in_standard_library, is_installed, loaded_from

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
#: Wrappers around wrappers that are looked through.
_MAX_WRAPPERS = 16
#: What is between the folders of a path, also of one from another system.
_FOLDERS = re.compile(r"[/\\]")
#: What an interactive interpreter calls the code that was typed into it.
_TYPED_IN = ("<python-input-", "<ipython-input-")


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


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _function_at(yield_point: str) -> str:
    """Return ``shop.chat.Room.talk`` for ``shop/chat.py:9 Room.talk``."""
    path, _, line_and_name = yield_point.partition(":")
    return f"{path.removesuffix('.py').replace('/', '.')}.{line_and_name.partition(' ')[2]}"


def _within(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _without_source(module: str, code: CodeType) -> bool:
    """Return whether code comes from a string, as the methods of a named tuple do.

    What was typed into an interactive interpreter counts as a program all the same.
    """
    if not code.co_filename.startswith("<") or code.co_filename.startswith(_TYPED_IN):
        return False
    return module != "__main__" or hasattr(sys.modules.get("__main__"), "__file__")


def _origin_of_file(path: str, module: str) -> CodeOrigin:
    if is_installed(path, module):
        return CodeOrigin.LIBRARY
    return CodeOrigin.STANDARD_LIBRARY if in_standard_library(path) else CodeOrigin.APPLICATION


def _origin_in_bundle(module: str) -> CodeOrigin:
    """Return whose code a module is whose program was frozen, so that its file does not tell."""
    if module == "__main__":
        return CodeOrigin.APPLICATION
    return (
        CodeOrigin.STANDARD_LIBRARY
        if module.partition(".")[0] in sys.stdlib_module_names
        else CodeOrigin.LIBRARY
    )


def ours(module: str) -> bool:
    """Return whether ``module`` is part of aiometrics."""
    return _within(module, ("aiometrics",))


def _module_of(obj: Any) -> str:
    """Return the module of a coroutine's code. Those of Cython keep its name themselves."""
    frame, code, module = frame_of(obj), code_of(obj), peek(obj, "__module__")
    if isinstance(module, str):
        return _without_folders(module)
    if frame is not None:
        code = frame.f_code
    return (
        _package_of(type(obj))
        if code is None
        else module_name(code, {} if frame is None else frame.f_globals)
    )


def _qualname_of(obj: Any, code: CodeType) -> str:
    """Return the qualified name of a coroutine's code, which that of Cython's does not have."""
    name = None if is_built_in(obj) else peek(obj, "__qualname__")
    return name if isinstance(name, str) else code.co_qualname


def type_name(kind: type) -> str:
    """Return the top-level package and qualified name of a type, or the name alone if built in."""
    package, name = _package_of(kind), type_names(kind)[1]
    return name if package in ("_asyncio", "builtins") else f"{package}.{name}"


def _package_of(kind: type) -> str:
    return _without_folders(type_names(kind)[0]).partition(".")[0]


def relative_path(code: CodeType, module: str) -> str:
    """Return the path of the file relative to where imports begin.

    It has the folders that are packages of the module. A file can be loaded under any name: then it
    has none, since the others say where the program is installed. A cell of IPython is ``In[3]``,
    as in the notebook.
    """
    cell = _cell(code.co_filename)
    if cell is not None:
        return cell
    *folders, file = _FOLDERS.split(code.co_filename)
    packages = (_main_module() if module == "__main__" else module).split(".")
    if file != "__init__.py":
        packages.pop()
    shared = takewhile(
        lambda pair: pair[0] == pair[1] != "", zip(folders[::-1], packages[::-1], strict=False)
    )
    return "/".join([*[folder for folder, _ in shared][::-1], file])


def _cell(filename: str) -> str | None:
    """Return what IPython calls a cell, whose file has a name made from its text."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_shell is None else get_shell()
    named = None if shell is None else shell.compile.format_code_name(filename)
    return None if named is None else str(named[1])


def place(code: CodeType, line: int | None, module: str) -> str:
    """Return ``path:line qualname``. Frames of Cython know no line, or only the first one."""
    return f"{_position(code, line, module)} {code.co_qualname}"


def _position(code: CodeType, line: int | None, module: str) -> str:
    return f"{relative_path(code, module)}:{line or code.co_firstlineno}"


def called(code: CodeType, module: str) -> str:
    """Return the top-level package and qualified name of a function, its name without a line."""
    return f"{module.partition('.')[0]}.{code.co_qualname}"


def module_name(code: CodeType, module_globals: Mapping[str, Any]) -> str:
    """Return the module that a code object runs in; if its globals do not say, the file's name."""
    name = module_globals.get("__name__")
    return (
        _without_folders(name)
        if isinstance(name, str)
        else _without_folders(code.co_filename).partition(".")[0]
    )


def _without_folders(module: str) -> str:
    """Return the name of a module, of which a loader may have made the path of its file.

    It may also have put dots in place of the slashes, the first of which is that of the root.
    """
    name = _FOLDERS.split(module)[-1]
    return name.rpartition(".")[2] if name.startswith(".") else name


class Places:
    """Tells application code from libraries, and names coroutines and yield points.

    ``application`` and ``library`` are prefixes of modules that override what the location of a
    file says; ``library`` wins. ``include`` and ``exclude`` are patterns of names of coroutines,
    ``patient`` of those, of functions that await or of what is awaited. docs/metrics.md explains
    the names under "yield point".
    """

    def __init__(
        self,
        application: Iterable[str] = (),
        library: Iterable[str] = (),
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        patient: Iterable[str] = (),
    ) -> None:
        self._application = tuple(application)
        self._library = tuple(library)
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._patient = tuple(patient)

    def chosen(self, coroutine: str) -> bool:
        """Return whether a coroutine of this name is to have rows of its own."""
        included = not self._include or _matches(coroutine, self._include)
        return included and not _matches(coroutine, self._exclude)

    def marked(self, coroutine: str, yield_point: str, awaits: str) -> str:
        """Return what a coroutine awaits, with a mark if it waits on purpose."""
        names = (coroutine, _function_at(yield_point), awaits)
        patient = any(_matches(name, self._patient) for name in names)
        return awaits + PATIENT if patient else awaits

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
        if getattr(sys, "frozen", False):
            return _origin_in_bundle(module)
        return _origin_of_file(file_of(module, code), module)

    def of_library(self, yield_point: str) -> bool:
        """Return whether the label of a yield point names a file of a library.

        Only modules that are loaded here are known.
        """
        module = yield_point.partition(":")[0].removesuffix(".py").replace("/", ".")
        if _within(module, self._library) or _within(module, self._application):
            return _within(module, self._library)
        package = module.partition(".")[0]
        file = loaded_from(package)
        return file is not None and _origin_of_file(file, package) < CodeOrigin.APPLICATION

    def transparent(self, root: Any) -> bool:
        """Return whether ``root`` may be a wrapper, whose code says nothing about the task."""
        return self._wrapped_variable(root) is not None

    def coroutine(self, root: Any) -> str:
        """Return ``module.qualname`` of a root coroutine, looking through tools' wrappers."""
        subject = self._unwrap(root)
        if type(subject) is FunctionType:
            made = subject.__code__
            return f"{module_name(made, subject.__globals__)}.{made.co_qualname}"
        code = code_of(subject)
        return (
            self._foreign(subject)
            if code is None
            else f"{_module_of(subject)}.{_qualname_of(subject, code)}"
        )

    def yield_point(self, owner: Any) -> str:
        """Return ``path:line qualname`` of the await where ``owner`` is suspended."""
        frame, code = frame_of(owner), code_of(owner)
        if frame is None or code is None:
            return self._foreign(owner)
        position = _position(code, frame.f_lineno, _module_of(owner))
        return f"{position} {_qualname_of(owner, code)}"

    def chain(self, root: Any) -> tuple[str, ...]:
        """Return the places of the awaits of a suspended coroutine, outermost first.

        Ours are left out.
        """
        frames = [
            link for link in links(root) if code_of(link) is not None and not self._passes_on(link)
        ]
        return tuple(map(self.yield_point, frames or [root]))

    def _passes_on(self, link: Any) -> bool:
        """Return whether a link is ours, unless it counts as the application's, as the demo."""
        return ours(_module_of(link)) and self.origin(link) < CodeOrigin.APPLICATION

    def awaits(self, callee: Any, yielded: Any) -> str:
        """Return what a yield point waits for: package and name of the awaitable below the frame.

        The iterator of a future says nothing, so the future itself, which the task ``yielded``,
        gives the name.
        """
        if callee is None:
            return "(yield)"
        code = code_of(callee)
        if code is not None:
            return f"{_module_of(callee).partition('.')[0]}.{_qualname_of(callee, code)}"
        if type_names(type(callee)) == ("_asyncio", "FutureIter"):
            return type_name(type(yielded))
        return self._foreign(callee)

    def _wrapped_variable(self, root: Any) -> str | None:
        """Return the variable that a wrapper awaits; ``None`` if ``root`` is no wrapper.

        Coroutines of the application are never looked through: it may have its reasons.
        """
        code = code_of(root)
        if code is None or not is_built_in(root):
            return None
        known = wrappers.known(_module_of(root), code)
        if known is not None or self.origin(root) == CodeOrigin.APPLICATION:
            return known
        return wrappers.only_awaited(code)

    def _unwrap(self, root: Any, depth: int = 0) -> Any:
        """Return what a wrapper holds, or ``root``.

        A library that awaits another one is no wrapper, unless it is known as such.
        """
        variable = self._wrapped_variable(root) if depth < _MAX_WRAPPERS else None
        held = None if variable is None else wrappers.held_by(root, variable)
        if held is None:
            return root
        inner = self._unwrap(held, depth + 1)
        known = wrappers.known(_module_of(root), code_of(root)) is not None
        return inner if known or self._of_application(inner) else root

    def _of_application(self, held: Any) -> bool:
        if type(held) is not FunctionType:
            return self.origin(held) == CodeOrigin.APPLICATION
        code = held.__code__
        return self.origin_of(module_name(code, held.__globals__), code) == CodeOrigin.APPLICATION

    @staticmethod
    def _foreign(obj: Any) -> str:
        """Return a name for an awaitable without Python code.

        That is its own qualified name if its type stores one, as Cython's does, else its type's.
        """
        name = peek(obj, "__qualname__")
        return f"{_package_of(type(obj))}.{name}" if isinstance(name, str) else type_name(type(obj))

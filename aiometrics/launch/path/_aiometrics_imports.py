"""Calls a function when a module has been imported by somebody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, then: Callable[[ModuleType], object]) -> None:
    """Call ``then`` with the module ``name``: now if it has been imported, else right after that.

    ``then`` must not raise.
    """
    module = sys.modules.get(name)
    if module is not None:
        then(module)
    else:
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder:
    """Finds a module as if it was not there, but with a loader that calls ``then``."""

    def __init__(self, name: str, then: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._then = then
        self._looking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name or self._looking:
            return None
        self._looking = True  # ddtrace has a finder that asks all finders in turn
        try:
            return self._found(path, target)
        finally:
            self._looking = False

    def _found(self, path: Any, target: Any) -> ModuleSpec | None:
        for finder in [each for each in sys.meta_path if each is not self]:
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec and find_spec(self._name, path, target)
            if spec is not None:
                # In place, since another tool may hold the list; it may also be equal to anything.
                sys.meta_path[:] = [each for each in sys.meta_path if each is not self]
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._then)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Loads as ``loader`` does, which takes its place again once the module is loaded."""

    def __init__(self, loader: Any, then: Callable[[ModuleType], object]) -> None:
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        for owner, name in ((module.__spec__, "loader"), (module, "__loader__")):
            if getattr(owner, name, None) is self:
                setattr(owner, name, self._loader)
        self._loader.exec_module(module)
        self._then(module)

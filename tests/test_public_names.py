"""The public names of the package."""

from __future__ import annotations

from inspect import ismodule

import aiometrics


def test_public_names_exist_and_none_is_a_module() -> None:
    """A function such as ``aiometrics.snapshot`` is never replaced by a module of its name."""
    public = {name: getattr(aiometrics, name) for name in aiometrics.__all__}
    assert [] == [name for name, value in public.items() if ismodule(value)]


def test_returned_types_are_public() -> None:
    """Type hints of an application can name what ``snapshot()`` and ``hotspots()`` return."""
    assert aiometrics.snapshot.__annotations__["return"] == aiometrics.Snapshot.__name__
    assert aiometrics.hotspots.__annotations__["return"] == aiometrics.Hotspots.__name__

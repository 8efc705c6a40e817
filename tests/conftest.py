"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from soak import ports
from support.serving import GUARD_SECONDS, Serve, http_threads

from aiometrics.recorder.implementation import IMPLEMENTATIONS

# No test may fail because other programs keep the machine busy.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--recorder``: where each recorder has a run of its own, no test need run twice."""
    parser.addoption(
        "--recorder",
        choices=sorted(IMPLEMENTATIONS),
        help="of the tests that run once for each recorder, run only those for this one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests for other recorders than ``--recorder``."""
    wanted = config.getoption("--recorder")
    left_out = [item for item in items if wanted and _recorder(item) not in (None, wanted)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _recorder(item: pytest.Item) -> object:
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("implementation")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout, for tests that read its files."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def binary() -> Callable[..., str]:
    """Return a function that finds a program: ``binary("prometheus")`` is its path.

    That is the first one on ``PATH``, or in the directories that are given as a second argument.

    If the program is not installed, the test is skipped. It fails if ``AIOMETRICS_REQUIRE_E2E`` is
    1, because then the program should have been installed.
    """

    def find(name: str, directories: str | None = None) -> str:
        path = shutil.which(name, path=directories)
        if path is not None:
            return path
        if os.environ.get("AIOMETRICS_REQUIRE_E2E") == "1":
            pytest.fail(
                f"{name} is not on PATH, and AIOMETRICS_REQUIRE_E2E=1 demands it: install it"
            )
        pytest.skip(f"{name} is not on PATH: install it to run this test")

    return find


@pytest.fixture(scope="session", params=sorted(IMPLEMENTATIONS))
def implementation(request: pytest.FixtureRequest) -> str:
    """The name of a recorder; a test runs once for each recorder that is built here."""
    name: str = request.param
    return name


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that is free, and that no other program is given during the test."""
    with ports.reserved() as port:
        yield port


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A factory of servers, which are closed after the test; none of their threads may be left."""
    factory = Serve()
    yield factory
    for server in factory.servers:
        server.close()
    for thread in http_threads():
        thread.join(GUARD_SECONDS)  # on a busy machine it may take longer than close() waits
    assert [] == http_threads()

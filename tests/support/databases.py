"""Databases that run beside a test."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from signal import SIGINT
from tempfile import mkdtemp
from typing import Any

#: Where Debian installs the programs of PostgreSQL, besides what is on ``PATH``.
_POSTGRES = os.pathsep.join(
    [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that another user may enter, with a path short enough for a socket."""
    folder = Path(mkdtemp(prefix="db"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(program: list[str], **options: Any) -> Iterator[None]:
    with subprocess.Popen(
        program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    ) as process:
        try:
            yield
        finally:
            process.send_signal(SIGINT)  # on which PostgreSQL does not wait for its clients


@contextmanager
def postgres(binary: Callable[..., str]) -> Iterator[str]:
    """Run PostgreSQL, and give the folder of its socket; its user is ``tester``."""
    make, server = binary("initdb", _POSTGRES), binary("postgres", _POSTGRES)
    # It does not run as root.
    user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    with _folder() as folder:
        if user:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        data = str(folder / "data")
        subprocess.run(
            [make, "-D", data, "-U", "tester", "--auth=trust", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **user,
        )
        command = [server, "-D", data, "-k", str(folder), "-F", "-c", "listen_addresses="]
        with _running(command, cwd=folder, **user):
            yield str(folder)


@contextmanager
def redis(binary: Callable[..., str]) -> Iterator[str]:
    """Run Redis, and give the path of its socket."""
    server = binary("redis-server")
    with _folder() as folder:
        path = str(folder / "redis.sock")
        with _running([server, "--port", "0", "--unixsocket", path, "--save", ""], cwd=folder):
            yield path


@asynccontextmanager
async def connected(connect: Callable[[], Any]) -> AsyncIterator[Any]:
    """Give what ``await connect()`` returns once the server answers, and close it."""
    connection = None
    while connection is None:
        try:
            connection = await connect()
        except Exception:  # noqa: BLE001 - whatever a client raises while its server starts
            await asyncio.sleep(0.05)
    try:
        yield connection
    finally:
        await connection.close()

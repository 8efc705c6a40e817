"""Attacks on the port of a busy service, while a scraper scrapes it: whether that gets through, and what the loop feels."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .attacks import ATTACKS, Attack

_ROOT = Path(__file__).resolve().parents[2]
_PASSWORD = "wonderland"  # noqa: S105 - the target's own
_SCRAPE_SECONDS = 0.25


@dataclass
class Scraper:
    """Scrapes at intervals, each time over a connection of its own, in a thread."""

    port: int
    context: ssl.SSLContext | None
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._scrape, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._end.wait(_SCRAPE_SECONDS):
            started = time.perf_counter()
            try:
                self._ask()
                self.seconds.append(time.perf_counter() - started)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def _ask(self) -> None:
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.context)
            if self.context
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        )
        with closing(connection):
            credentials = b64encode(f"alice:{_PASSWORD}".encode()).decode()
            connection.request(
                "GET",
                "/metrics",
                headers={"Authorization": f"Basic {credentials}", "Accept-Encoding": "gzip"},
            )
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.client.OK:
                raise http.client.HTTPException(answer.status)


class Target:
    """The service, a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def measure(self, seconds: float) -> dict[str, Any]:
        """What its loop did in that time."""
        self.begin()
        time.sleep(seconds)
        return self.end()

    def begin(self) -> None:
        """Measure from now on."""
        self._say("begin")

    def end(self) -> dict[str, Any]:
        """What was measured."""
        self._say("end")
        said: dict[str, Any] = json.loads(self._line())
        return said

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the target is gone: {self._process.wait()}")
        return line


@contextmanager
def serving(
    guard: str, pause_seconds: float, directory: Path
) -> Iterator[tuple[Target, ssl.SSLContext | None]]:
    """A target that is guarded as ``guard`` says, and what a client needs to speak TLS with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if guard == "tls" else None
    text = _tls(directory, context) if context else _users() if guard == "users" else ""
    config = directory / "web.yml"
    config.write_text(text, encoding="ascii")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.target",
        str(pause_seconds),
        *([str(config)] if text else []),
    ]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Target(process), context


def _tls(directory: Path, context: ssl.SSLContext) -> str:
    import trustme

    authority = trustme.CA()
    authority.configure_trust(context)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    return "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"


def _users() -> str:
    import bcrypt

    return f"basic_auth_users:\n  alice: {bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(10)).decode()}\n"


def assail(attack: Attack, pause_seconds: float, seconds: float) -> tuple[list[str], bool]:
    """The cells of one row for ``attack``, and whether all was well: every scrape answered, no error, no thread or descriptor left over."""
    with (
        tempfile.TemporaryDirectory() as name,
        serving(attack.guard, pause_seconds, Path(name)) as (target, context),
    ):
        with Scraper(target.port, context) as scraper:
            target.measure(1.0)  # until caches are warm
            before = target.measure(seconds / 2)
            calm = list(scraper.seconds)
            scraper.seconds.clear()
            target.begin()
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.fuzz.attacks",
                    attack.name,
                    str(target.port),
                    str(seconds),
                ],
                cwd=_ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            during = target.end()
            stormy = list(scraper.seconds)
        again = target.measure(seconds / 2)
    said = json.loads(done.stdout)
    for failure in scraper.failures:
        print(f"{attack.name}: a scrape failed: {failure}", file=sys.stderr)
    well = not scraper.failures and not again["errors"]
    answers = ", ".join(f"{status} {count}" for status, count in sorted(said["answers"].items()))
    cells = [
        attack.name,
        f"{attack.clients}",
        f"{said['connections']}: {answers}",
        f"{len(stormy)} of {len(stormy) + len(scraper.failures)}",
        f"{max(calm) * 1e3:.0f} -> {max(stormy, default=float('nan')) * 1e3:.0f}",
        *(f"{before[key] * 1e3:.2f} -> {during[key] * 1e3:.2f}" for key in ("p50", "p99", "worst")),
        f"{before['rss_kib'] / 1024:.1f} -> {during['rss_kib'] / 1024:.1f} -> {again['rss_kib'] / 1024:.1f}",
        f"{before['threads']} -> {during['threads']} -> {again['threads']}",
    ]
    return cells, well


HEADINGS = (
    "attack",
    "clients",
    "connections",
    "scrapes answered",
    "slowest scrape, ms",
    "median turn, ms",
    "p99 turn, ms",
    "worst turn, ms",
    "memory, MiB",
    "threads",
)


def run(names: list[str], pause_seconds: float, seconds: float) -> int:
    """Print a row for each attack; how many went wrong."""
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}", flush=True)
    wrong = 0
    for name in names or ATTACKS:
        cells, well = assail(ATTACKS[name], pause_seconds, seconds)
        wrong += not well
        print(f"| {' | '.join(cells)} |", flush=True)
    return wrong

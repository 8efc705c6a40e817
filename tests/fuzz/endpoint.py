"""Attacks the port of a busy service while it is scraped.

Measures whether scrapes are answered, and how the attack affects the event loop.
"""

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
_PASSWORD = "wonderland"  # noqa: S105 - of the target only
_SCRAPE_SECONDS = 0.25


@dataclass
class Scraper:
    """Scrapes at intervals in a thread, each time over a new connection."""

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
            response = connection.getresponse()
            response.read()
            if response.status != http.client.OK:
                raise http.client.HTTPException(response.status)


class Target:
    """The service that is attacked, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def measure(self, seconds: float) -> dict[str, Any]:
        """Measure the loop for some seconds, and return the result."""
        self.begin()
        time.sleep(seconds)
        return self.end()

    def begin(self) -> None:
        """Begin to measure the loop."""
        self._send("begin")

    def end(self) -> dict[str, Any]:
        """Return what was measured since :meth:`begin`."""
        self._send("end")
        measured: dict[str, Any] = json.loads(self._line())
        return measured

    def _send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the target has ended with status {self._process.wait()}")
        return line


@contextmanager
def serving(
    guard: str, pause_seconds: float, directory: Path
) -> Iterator[tuple[Target, ssl.SSLContext | None]]:
    """Start a target that is protected by ``guard``; yield it and the TLS context for clients."""
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

    password_hash = bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(10)).decode()
    return f"basic_auth_users:\n  alice: {password_hash}\n"


def measure_attack(attack: Attack, pause_seconds: float, seconds: float) -> tuple[list[str], bool]:
    """Run an attack; return the cells of its row, and whether the service withstood it.

    It did if every scrape was answered and there was no internal error.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        serving(attack.guard, pause_seconds, Path(name)) as (target, context),
    ):
        with Scraper(target.port, context) as scraper:
            target.measure(1.0)  # until caches are warm
            before = target.measure(seconds / 2)
            scrapes_before = list(scraper.seconds)
            scraper.seconds.clear()
            target.begin()
            attacker = subprocess.run(
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
            scrapes_during = list(scraper.seconds)
        after = target.measure(seconds / 2)
    outcome = json.loads(attacker.stdout)
    for failure in scraper.failures:
        print(f"{attack.name}: a scrape failed: {failure}", file=sys.stderr)
    withstood = not scraper.failures and not after["errors"]
    answers = ", ".join(f"{status} {count}" for status, count in sorted(outcome["answers"].items()))
    cells = [
        attack.name,
        f"{attack.clients}",
        f"{outcome['connections']}: {answers}",
        f"{len(scrapes_during)} of {len(scrapes_during) + len(scraper.failures)}",
        f"{max(scrapes_before) * 1e3:.0f} -> {max(scrapes_during, default=float('nan')) * 1e3:.0f}",
        *(f"{before[key] * 1e3:.2f} -> {during[key] * 1e3:.2f}" for key in ("p50", "p99", "worst")),
        " -> ".join(f"{part['rss_kib'] / 1024:.1f}" for part in (before, during, after)),
        " -> ".join(f"{part['threads']}" for part in (before, during, after)),
    ]
    return cells, withstood


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
    """Print a row for each attack; return how many of them the service did not withstand."""
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}", flush=True)
    failed = 0
    for name in names or ATTACKS:
        cells, withstood = measure_attack(ATTACKS[name], pause_seconds, seconds)
        failed += not withstood
        print(f"| {' | '.join(cells)} |", flush=True)
    return failed

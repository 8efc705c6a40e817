"""Hostile clients: one function for the use that each kind makes of a connection.

The command line is ``python -m tests.fuzz.attacks NAME PORT SECONDS``.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random

#: The time between the bytes of slow clients, and before a client that was cut off reconnects.
PACE_SECONDS = 1.0
GET = b"GET /metrics HTTP/1.1\r\nHost: target\r\nAccept-Encoding: gzip\r\n\r\n"
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
_MANY = 1000
#: The number of clients that request something expensive.
_SOME = 16


@dataclass
class Client:
    """One connection of an attacker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    random: Random
    pace_seconds: float

    async def send(self, data: bytes) -> None:
        """Send bytes, at the pace at which the server reads them."""
        self.writer.write(data)
        await self.writer.drain()

    async def dribble(self, data: Iterator[bytes]) -> None:
        """Send one part after each pause, until the server closes the connection."""
        for part in data:
            await self.send(part)
            await asyncio.sleep(self.pace_seconds)
            if self.reader.at_eof():
                return

    async def listen(self) -> bytes:
        """Return all bytes that arrive until the server closes the connection."""
        return await self.reader.read(-1)


async def idle(client: Client) -> bytes:
    """Send nothing."""
    return await client.listen()


async def byte_by_byte(client: Client) -> bytes:
    """Send a request that never ends, a byte at a time."""
    await client.dribble(iter([b"GET /metrics HTTP/1.1\r\nX: ", *[b"x"] * 100_000]))
    return await client.listen()


async def big_header(client: Client) -> bytes:
    """Send a header of 64 KiB."""
    await client.send(b"GET /metrics HTTP/1.1\r\nHost: target\r\nX: " + b"x" * 65_536 + b"\r\n\r\n")
    return await client.listen()


async def noise(client: Client) -> bytes:
    """Send random bytes."""
    await client.send(client.random.randbytes(client.random.choice((1, 10, 1000, 100_000))))
    client.writer.write_eof()
    return await client.listen()


async def malformed(client: Client) -> bytes:
    """Send a request in which some bytes were replaced, removed or added."""
    data = bytearray(
        b"POST /metrics?a=b HTTP/1.1\r\nHost: target\r\nAccept: */*;q=0.5\r\n"
        b"Content-Length: 5\r\nConnection: close\r\n\r\nhello"
    )
    for _ in range(client.random.randint(1, 5)):
        place = client.random.randrange(len(data))
        data[place : place + client.random.randint(0, 3)] = client.random.choice(
            (b"", b"\0", b"\r\n", b"\n", b" ", b":", b"\xff", b"99999999999")
        )
    await client.send(bytes(data))
    client.writer.write_eof()
    return await client.listen()


async def deaf(client: Client) -> bytes:
    """Request the metrics many times at once, and read no response."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.dribble(iter([GET * 50] * 1000))
    return b""


async def greedy(client: Client) -> bytes:
    """Request the metrics again and again."""
    head = b""
    for _ in range(10):
        await client.send(GET)
        head = await client.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"Content-Length: ([0-9]+)", head)
        await client.reader.readexactly(int(found[1]) if found else 0)
    return head


async def pipeliner(client: Client) -> bytes:
    """Send requests for an unknown path as fast as responses arrive."""
    await client.send(GET.replace(b"/metrics", b"/nothing") * 1000)
    client.writer.write_eof()
    return await client.listen()


async def scanner(client: Client) -> bytes:
    """Connect and disconnect at once."""
    client.writer.transport.abort()
    return b""


async def stalled_handshake(client: Client) -> bytes:
    """Begin a TLS handshake and stop."""
    await client.send(_HELLO)
    return await client.listen()


async def guesser(client: Client) -> bytes:
    """Try a random password."""
    guess = b64encode(b"alice:" + client.random.randbytes(8))
    await client.send(
        b"GET /metrics HTTP/1.1\r\nHost: target\r\nConnection: close\r\nAuthorization: Basic "
        + guess
        + b"\r\n\r\n"
    )
    return await client.listen()


@dataclass(frozen=True)
class Attack:
    """One kind of hostile client, how many act at a time, and how the server is protected."""

    behave: Callable[[Client], Awaitable[bytes]]
    clients: int = _MANY
    guard: str = ""

    @property
    def name(self) -> str:
        """The name of the attack on the command line."""
        return self.behave.__name__.replace("_", "-") + (f"-{self.guard}" if self.guard else "")


ATTACKS = {
    attack.name: attack
    for attack in (
        Attack(idle),
        Attack(byte_by_byte),
        Attack(big_header, 100),
        Attack(noise, 100),
        Attack(malformed, 100),
        Attack(scanner, 100),
        Attack(deaf, 100),
        Attack(greedy, _SOME),
        Attack(pipeliner, _SOME),
        Attack(stalled_handshake, guard="tls"),
        Attack(noise, 100, guard="tls"),
        Attack(guesser, _SOME, guard="users"),
    )
}


@dataclass
class Outcome:
    """The number of connections of an attack, and their outcomes."""

    connections: int = 0
    #: Connections by the status of the last response: ``"none"`` if there was none, ``"failed"`` if
    #: the connection broke.
    answers: Counter[str] = field(default_factory=Counter)


async def attack(
    chosen: Attack,
    port: int,
    outcome: Outcome,
    *,
    times: int | None = None,
    pace_seconds: float = PACE_SECONDS,
) -> None:
    """Let all clients of an attack connect ``times`` times each, by default for ever.

    Where there are many clients, they reconnect at their pace, else at once.
    """
    random = Random(1)  # noqa: S311 - the attack must be reproducible

    async def client() -> None:
        for _ in range(times) if times else count():
            outcome.connections += 1
            outcome.answers[await _connection(chosen, port, random, pace_seconds)] += 1
            await asyncio.sleep(pace_seconds if chosen.clients == _MANY else 0)

    async with asyncio.TaskGroup() as group:
        for _ in range(chosen.clients):
            group.create_task(client())


async def _connection(chosen: Attack, port: int, random: Random, pace_seconds: float) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "not connected"
    try:
        answer = await chosen.behave(Client(reader, writer, random, pace_seconds))
        found = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", answer)
        return found[1].decode() if found else "none"
    except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
        return "failed"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def attack_for(chosen: Attack, port: int, seconds: float) -> Outcome:
    """Attack for a time, and then drop the connections that are open."""
    outcome = Outcome()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await attack(chosen, port, outcome)
    return outcome


def main() -> None:
    """Attack for a time, and print the outcome as JSON."""
    name, port, seconds = sys.argv[1:]
    outcome = asyncio.run(attack_for(ATTACKS[name], int(port), float(seconds)))
    print(json.dumps({"connections": outcome.connections, "answers": outcome.answers}))


if __name__ == "__main__":
    main()

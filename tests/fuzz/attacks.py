"""Clients that mean no good, one function for what each does with a connection; ``python -m tests.fuzz.attacks NAME PORT SECONDS``."""

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

#: Between the bytes of slow clients, and before one that was cut comes back.
PACE_SECONDS = 1.0
GET = b"GET /metrics HTTP/1.1\r\nHost: target\r\nAccept-Encoding: gzip\r\n\r\n"
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
_WRONG = (b"", b"\0", b"\r\n", b"\n", b" ", b":", b"\xff", b"99999999999")
_MANY = 1000
#: Of those that ask for something expensive.
_SOME = 16


@dataclass
class Client:
    """One connection of an attacker, who can do anything with it as often as it lives."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    random: Random
    pace_seconds: float

    async def send(self, data: bytes) -> None:
        """Hand over bytes, at the pace at which the server takes them."""
        self.writer.write(data)
        await self.writer.drain()

    async def dribble(self, data: Iterator[bytes]) -> None:
        """Send a little now and then, until the server has enough."""
        for some in data:
            await self.send(some)
            await asyncio.sleep(self.pace_seconds)
            if self.reader.at_eof():
                return

    async def listen(self) -> bytes:
        """All that comes until the server ends it."""
        return await self.reader.read(-1)


async def idle(client: Client) -> bytes:
    """Says nothing."""
    return await client.listen()


async def byte_by_byte(client: Client) -> bytes:
    """Sends a request that never ends, a byte at a time."""
    await client.dribble(iter([b"GET /metrics HTTP/1.1\r\nX: ", *[b"x"] * 100_000]))
    return await client.listen()


async def big_header(client: Client) -> bytes:
    """Sends a header of 64 KiB."""
    await client.send(b"GET /metrics HTTP/1.1\r\nHost: target\r\nX: " + b"x" * 65_536 + b"\r\n\r\n")
    return await client.listen()


async def noise(client: Client) -> bytes:
    """Sends random bytes."""
    await client.send(client.random.randbytes(client.random.choice((1, 10, 1000, 100_000))))
    client.writer.write_eof()
    return await client.listen()


async def malformed(client: Client) -> bytes:
    """Sends a request in which some bytes are others, are missing or are there twice."""
    data = bytearray(
        b"POST /metrics?a=b HTTP/1.1\r\nHost: target\r\nAccept: */*;q=0.5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
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
    """Asks for the metrics, many times at once, and reads no answer."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.dribble(iter([GET * 50] * 1000))
    return b""


async def greedy(client: Client) -> bytes:
    """Asks for the metrics again and again."""
    answers = b""
    for _ in range(10):
        await client.send(GET)
        answers = await client.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"Content-Length: ([0-9]+)", answers)
        await client.reader.readexactly(int(found[1]) if found else 0)
    return answers


async def pipeliner(client: Client) -> bytes:
    """Sends requests for nothing as fast as answers come."""
    await client.send(GET.replace(b"/metrics", b"/nothing") * 1000)
    client.writer.write_eof()
    return await client.listen()


async def scanner(client: Client) -> bytes:
    """Connects and is gone."""
    client.writer.transport.abort()
    return b""


async def stalled_handshake(client: Client) -> bytes:
    """Begins to speak TLS and stops."""
    await client.send(_HELLO)
    return await client.listen()


async def guesser(client: Client) -> bytes:
    """Tries a password."""
    guess = b64encode(b"alice:" + client.random.randbytes(8))
    await client.send(
        b"GET /metrics HTTP/1.1\r\nHost: target\r\nConnection: close\r\nAuthorization: Basic "
        + guess
        + b"\r\n\r\n"
    )
    return await client.listen()


@dataclass(frozen=True)
class Attack:
    """How many clients do the same at a time, and how the server is guarded against them."""

    behave: Callable[[Client], Awaitable[bytes]]
    clients: int = _MANY
    guard: str = ""

    @property
    def name(self) -> str:
        """As the command line has it."""
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
    """What became of the connections of an attack."""

    connections: int = 0
    #: By the status of the last answer, ``"none"`` where there was none, ``"failed"`` where the connection broke.
    answers: Counter[str] = field(default_factory=Counter)


async def attack(
    chosen: Attack,
    port: int,
    outcome: Outcome,
    *,
    times: int | None = None,
    pace_seconds: float = PACE_SECONDS,
) -> None:
    """Let all clients behave as they do, so many times each, for ever by default; many come back at their pace, few at once."""
    random = Random(1)  # noqa: S311 - it is to be repeated

    async def client() -> None:
        for _ in range(times) if times else count():
            outcome.connections += 1
            outcome.answers[await _behaved(chosen, port, random, pace_seconds)] += 1
            await asyncio.sleep(pace_seconds if chosen.clients == _MANY else 0)

    async with asyncio.TaskGroup() as group:
        for _ in range(chosen.clients):
            group.create_task(client())


async def _behaved(chosen: Attack, port: int, random: Random, pace_seconds: float) -> str:
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
    """Attack for a time; connections that are open then are dropped."""
    outcome = Outcome()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await attack(chosen, port, outcome)
    return outcome


def main() -> None:
    """Attack for a time, and print as JSON what became of it."""
    name, port, seconds = sys.argv[1:]
    outcome = asyncio.run(attack_for(ATTACKS[name], int(port), float(seconds)))
    print(json.dumps({"connections": outcome.connections, "answers": outcome.answers}))


if __name__ == "__main__":
    main()

"""Threads that answer scrapes get the interpreter from loops that never rest."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import GUARD_SECONDS
from support.tracing import every_loop

from aiometrics.base import handover
from aiometrics.base.handover import HandOver
from aiometrics.recorder.implementation import IMPLEMENTATIONS

US = 1_000


@pytest.fixture
def hand_over(implementation: str) -> Any:
    """How the loops of a recorder hand the interpreter over."""
    return IMPLEMENTATIONS[implementation].hand_over


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of connected sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Machine:
    """A clock, and a sleep after which the interpreter may have been taken."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0
        self.taken_after = 0
        self.hand_over = HandOver(lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Sleep; now and then, a thread that answers has the interpreter meanwhile."""
        self.now += seconds
        self.sleeps += 1
        if self.sleeps == self.taken_after:
            thread = threading.Thread(target=self.hand_over.__exit__)
            thread.start()
            thread.join()

    def given(self) -> int:
        """Give the interpreter up once, and return how often the loop slept."""
        before = self.sleeps
        self.hand_over.give()
        return self.sleeps - before


def test_a_loop_gives_the_interpreter_up_until_it_was_taken() -> None:
    """It takes it back as soon as a thread had it, and gives it up again at the next turn."""
    machine = Machine()
    with machine.hand_over:
        machine.taken_after = 2
        assert 2 == machine.given()
        machine.taken_after = 3
        assert 1 == machine.given()


def test_a_loop_does_not_go_on_giving_what_is_not_taken() -> None:
    """It pauses longer and longer, up to 8 ms, until a thread asks again."""
    machine = Machine()
    with machine.hand_over:
        pauses = []
        for _ in range(7):
            assert 3 == machine.given()
            began = machine.now
            while not (slept := machine.given()):
                machine.now += 0.1e-3
            assert 3 == slept
            pauses.append(round((machine.now - began) * 1e3))
            machine.now += 10e-3
        assert 8 == max(pauses)
        assert sorted(pauses) == pauses
        assert 3 == machine.given()
        assert 0 == machine.given()
    with machine.hand_over:
        assert 3 == machine.given()


def test_a_loop_that_never_rests_gives_way_to_a_thread_that_answers(
    hand_over: Any, implementation: str
) -> None:
    """It sleeps at least one moment, outside of its turns."""

    async def turns() -> None:
        with hand_over:
            for _ in range(3):
                await asyncio.sleep(0)

    with every_loop(implementation) as instrumentation:
        asyncio.run(turns())
        (loop,) = instrumentation.snapshot().loops
    assert loop.idle_ns is not None
    assert loop.idle_ns >= 3 * 50 * US


def test_a_selector_that_is_slow_to_find_nothing_has_not_given_way(
    hand_over: Any, implementation: str
) -> None:
    """It takes a while where its code is in no cache, but no other thread could wake up."""

    class Slow(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            began = time.perf_counter_ns()
            found = super().select(timeout)
            while time.perf_counter_ns() - began < 40 * US:
                pass
            return found

    async def turns() -> None:
        with hand_over:
            for _ in range(3):
                await asyncio.sleep(0)

    with every_loop(implementation) as instrumentation:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Slow())) as runner:
            runner.run(turns())
        (loop,) = instrumentation.snapshot().loops
    assert loop.idle_ns is not None
    assert loop.idle_ns >= 3 * (40 + 50) * US


def test_only_a_thread_that_answers_asks(hand_over: Any) -> None:
    """It no longer does once it has answered."""
    assert not hand_over.asked
    with hand_over:
        assert hand_over.asked
    assert not hand_over.asked


def test_a_thread_that_waits_or_rests_does_not_ask(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Loops must not sleep for a thread that has nothing to do."""
    ours, theirs = sockets
    waits = threading.Event()

    def answer() -> None:
        with hand_over:
            waits.set()
            hand_over.wait((ours.fileno(),))
            hand_over.rest(0.0)

    thread = threading.Thread(target=answer)
    thread.start()
    waits.wait()
    while hand_over.asked:
        pass
    theirs.send(b"x")
    thread.join()
    assert not hand_over.asked


def test_wait_says_whether_a_descriptor_is_ready(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """It waits for one of several, to be read from or to be written to."""
    ours, theirs = sockets
    descriptors = ours.fileno(), theirs.fileno()
    assert not hand_over.wait(descriptors, 0.0)
    assert not hand_over.wait(descriptors, 0.001)
    assert not hand_over.wait(descriptors, -1.0)
    assert hand_over.wait(descriptors, 0.0, write=True)
    theirs.send(b"x")
    assert hand_over.wait(descriptors)
    assert hand_over.wait(descriptors, 1e9)
    theirs.close()
    ours.recv(1)
    assert hand_over.wait((ours.fileno(),))
    assert not hand_over.asked


def test_receive_returns_what_comes(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """At most so many bytes; none at the end."""
    ours, theirs = sockets
    ours.settimeout(0)
    theirs.send(b"hello")
    assert b"hel" == hand_over.receive(ours, 3, 1.0)
    assert b"lo" == hand_over.receive(ours, 3, 1.0)
    for seconds in (0.001, 0.0, -1.0):
        with pytest.raises(TimeoutError):
            hand_over.receive(ours, 3, seconds)
    theirs.close()
    assert b"" == hand_over.receive(ours, 3, 1.0)
    assert not hand_over.asked


def test_receive_waits_without_asking(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Loops must not give way to a thread whose client says nothing."""
    ours, theirs = sockets
    ours.settimeout(0)
    received: list[bytes] = []

    def answer() -> None:
        with hand_over:
            received.append(hand_over.receive(ours, 9, GUARD_SECONDS))

    thread = threading.Thread(target=answer)
    thread.start()
    while hand_over.asked or not thread.is_alive():
        pass
    theirs.send(b"at last")
    thread.join()
    assert [b"at last"] == received


def test_all_is_sent_however_little_the_system_takes_at_a_time(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """In order, and empty parts are no end."""
    ours, theirs = sockets
    ours.settimeout(0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    parts = (b"", b"head", b"", bytes(range(256)) * 1000)
    received = bytearray()

    def take() -> None:
        while data := theirs.recv(1000):
            received.extend(data)

    thread = threading.Thread(target=take)
    thread.start()
    hand_over.send(ours, parts, GUARD_SECONDS)
    hand_over.send(ours, (), GUARD_SECONDS)
    ours.shutdown(socket.SHUT_WR)
    thread.join()
    assert b"".join(parts) == received
    assert not hand_over.asked


def test_short_parts_are_sent_together(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """A head and a short body are one packet."""
    ours, theirs = sockets
    ours.settimeout(0)
    sent: list[bytes] = []
    reader = threading.Thread(target=lambda: sent.append(theirs.recv(99)))
    reader.start()
    hand_over.send(ours, (b"head", b"body!", b"x"), 1.0)
    reader.join()
    assert [b"headbody!x"] == sent


def test_what_was_sent_is_not_sent_again() -> None:
    """The system may take any number of bytes of the parts at a time."""
    parts = [b"head", b"body!", b"x"]
    whole = b"".join(parts)
    for count in range(1, len(whole) + 1):
        rest = handover._without([memoryview(part) for part in parts], count)
        assert whole[count:] == b"".join(rest)
        assert all(rest)


def test_send_fails_if_the_client_does_not_take_all_in_time(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Or if it is gone, which must not kill the process by a signal."""
    ours, theirs = sockets
    ours.settimeout(0)
    with pytest.raises(TimeoutError):
        hand_over.send(ours, (bytes(10_000_000),), 0.01)
    theirs.close()
    with pytest.raises(BrokenPipeError):
        hand_over.send(ours, (b"x",), 1.0)
    assert not hand_over.asked


def test_send_and_receive_take_sockets_bytes_and_seconds(
    hand_over: Any, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Anything else is an error of the caller."""
    ours, _ = sockets
    with pytest.raises((TypeError, AttributeError)):
        hand_over.receive("socket", 1, 1.0)
    with pytest.raises(TypeError):
        hand_over.receive(ours, 1, "soon")
    with pytest.raises(TypeError):
        hand_over.send(ours, ("text",), 1.0)
    with pytest.raises((TypeError, AttributeError)):
        hand_over.send("socket", (b"x",), 1.0)
    assert not hand_over.asked


def test_wait_takes_descriptors_and_seconds(hand_over: Any) -> None:
    """Anything else is an error of the caller."""
    with pytest.raises(ValueError, match="descriptor"):
        hand_over.wait((-1,))
    with pytest.raises(TypeError):
        hand_over.wait(1)
    with pytest.raises(TypeError):
        hand_over.wait((0,), "soon")
    with pytest.raises(TypeError):
        hand_over.rest("long")
    assert not hand_over.asked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_no_threads_that_answer(hand_over: Any) -> None:
    """Its loops would give way for ever."""
    with hand_over:
        child = os.fork()
        if not child:
            os._exit(hand_over.asked)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert hand_over.asked

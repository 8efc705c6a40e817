"""Payments: the card is charged at once; confirmation and receipt follow in the background."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine

LOST_AT_MOST = 3


class Payments:
    """Charges cards.

    Sleeps stand for the network, and ``time.sleep`` for a client library that knows no asyncio.
    ``blocking`` charges on the loop; ``loses_confirmations`` loses the second, fourth and sixth
    confirmation; ``fails`` refuses every third receipt.
    """

    def __init__(self, *, blocking: bool, loses_confirmations: bool, fails: bool) -> None:
        self._blocking = blocking
        self._loses_confirmations = loses_confirmations
        self._fails = fails
        self._numbers = itertools.count(1)
        self._lost: list[asyncio.Future[None]] = []
        self._background: set[asyncio.Task[None]] = set()

    async def charge_card(self, charge_seconds: float = 0.12, audit_seconds: float = 0.005) -> int:
        """Charge the card, notify the audit trail, start the rest as a task; return the number."""
        if self._blocking:
            time.sleep(charge_seconds)  # noqa: ASYNC251 - this is the fault
        else:
            await asyncio.to_thread(time.sleep, charge_seconds)
        await asyncio.sleep(audit_seconds)
        number = next(self._numbers)
        self._start(self._settle(number))
        return number

    async def wait_for_confirmation(self, number: int, provider_seconds: float = 0.02) -> None:
        """Return when the payment provider has confirmed the payment."""
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()
        if self._loses_confirmations and number % 2 == 0 and len(self._lost) < LOST_AT_MOST:
            self._lost.append(confirmed)
        else:
            loop.call_later(provider_seconds, confirmed.set_result, None)
        await confirmed

    async def send_receipt(self, number: int, mail_seconds: float = 0.01) -> None:
        """Mail the receipt. Raises ``ConnectionRefusedError`` if the mail server refuses it."""
        await asyncio.sleep(mail_seconds)
        if self._fails and number % 3 == 0:
            raise ConnectionRefusedError(f"the mail server refused the receipt of payment {number}")

    async def _settle(self, number: int) -> None:
        await self.wait_for_confirmation(number)
        await asyncio.gather(self.send_receipt(number), return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

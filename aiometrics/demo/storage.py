"""The shop's storage: orders in a database on the network, stock in a local sqlite database."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

_MOVEMENTS = """
    CREATE TABLE movement (product INTEGER NOT NULL, pieces INTEGER NOT NULL);
    INSERT INTO movement
        WITH RECURSIVE entry(id) AS (
            SELECT 1 UNION ALL SELECT id + 1 FROM entry WHERE id < {rows}
        )
        SELECT id % 997, 1 + id % 3 FROM entry;
"""


class Pool:
    """A pool of a fixed number of database connections; its users queue for a free one."""

    def __init__(self, connections: int) -> None:
        self._free = asyncio.Semaphore(connections)

    async def acquire(self) -> None:
        """Take a connection."""
        await self._free.acquire()

    def release(self) -> None:
        """Give a connection back."""
        self._free.release()


class Orders:
    """The orders; each takes a query of ``query_seconds``, a sleep in place of a real database."""

    def __init__(self, pool: Pool, query_seconds: float = 0.06) -> None:
        self._pool = pool
        self._query_seconds = query_seconds

    async def fetch(self, number: int) -> dict[str, int]:
        """Return the order of that number."""
        await self._pool.acquire()
        try:
            await asyncio.sleep(self._query_seconds)
        finally:
            self._pool.release()
        return {"order": number, "pieces": 1 + number % 3}


class Stock:
    """The number of pieces in stock, summed over every movement of a product.

    That is a scan, since the table has no index.
    """

    def __init__(
        self, *, blocking: bool, rows: int = 600_000, audit_seconds: float = 0.005
    ) -> None:
        self._blocking = blocking
        self._audit_seconds = audit_seconds
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.executescript(_MOVEMENTS.format(rows=rows))

    async def reserve_stock(self, product: int) -> int:
        """Take a piece of ``product``, notify the audit trail; return how many pieces are left."""
        left = (
            self._take(product) if self._blocking else await asyncio.to_thread(self._take, product)
        )
        await asyncio.sleep(self._audit_seconds)
        return left

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _take(self, product: int) -> int:
        with self._lock, self._database:
            self._database.execute("INSERT INTO movement VALUES (?, -1)", (product,))
            (left,) = self._database.execute(
                "SELECT sum(pieces) FROM movement WHERE product = ?", (product,)
            ).fetchone()
        return int(left)

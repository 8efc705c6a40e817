"""The shop's HTTP service: orders, search, checkout and export."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from aiohttp import web

from aiometrics.demo.catalogue import Catalogue
from aiometrics.demo.delivery import Delivery
from aiometrics.demo.faults import Fault
from aiometrics.demo.payments import Payments
from aiometrics.demo.storage import Orders, Pool, Stock
from aiometrics.integrations.aiohttp import request_middleware

_FEW_CONNECTIONS, _ENOUGH_CONNECTIONS = 2, 50

#: Seconds that a request may take, by its type. The shop without faults keeps all of them.
OBJECTIVES = MappingProxyType(
    {"GET /orders/{number}": 0.2, "GET /search": 0.2, "GET /export": 0.5, "POST /checkout": 0.5}
)


class Shop:
    """The handlers, over parts that are healthy or have the chosen faults."""

    def __init__(self, faults: AbstractSet[Fault]) -> None:
        self._orders = Orders(
            Pool(_FEW_CONNECTIONS if Fault.SLOW in faults else _ENOUGH_CONNECTIONS)
        )
        self._stock = Stock(blocking=Fault.BLOCKING in faults)
        self._catalogue = Catalogue(
            compares_all=Fault.CPU in faults, yields_each_row=Fault.TINY in faults
        )
        self._delivery = Delivery(hedges=Fault.FAILING in faults)
        self._payments = Payments(
            blocking=Fault.BLOCKING in faults,
            loses_confirmations=Fault.STUCK in faults,
            fails=Fault.FAILING in faults,
        )

    def application(self) -> web.Application:
        """The shop as an aiohttp application."""
        app = web.Application(middlewares=[request_middleware()])
        app.add_routes(
            [
                web.get(r"/orders/{number:\d+}", self.order),
                web.get("/search", self.search),
                web.get("/export", self.export),
                web.post("/checkout", self.checkout),
            ]
        )
        app.cleanup_ctx.append(self._open)
        return app

    async def order(self, request: web.Request) -> web.Response:
        """``GET /orders/7``: one order."""
        return web.json_response(await self._orders.fetch(int(request.match_info["number"])))

    async def search(self, request: web.Request) -> web.Response:
        """``GET /search?q=green+lamp``: the most similar products."""
        query = request.query.get("q", "").strip()
        if not query:
            raise web.HTTPBadRequest(text="say what to search for: /search?q=green+lamp\n")
        return web.json_response(await self._catalogue.rank_results(query))

    async def export(self, _: web.Request) -> web.Response:
        """``GET /export``: all products as CSV."""
        return web.Response(text=await self._catalogue.write_rows(), content_type="text/csv")

    async def checkout(self, _: web.Request) -> web.Response:
        """``POST /checkout``: reserve a product, charge the card, and say when it arrives."""
        left = await self._stock.reserve_stock(random.randrange(997))
        payment = await self._payments.charge_card()
        return web.json_response(
            {"payment": payment, "left": left, "days": await self._delivery.days()}
        )

    async def _open(self, _: web.Application) -> AsyncIterator[None]:
        yield
        self._stock.close()

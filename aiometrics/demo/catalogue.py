"""The shop's products: finding them by name, and listing them all."""

from __future__ import annotations

import asyncio
import csv
import difflib
import io
import itertools

_COLOURS = ("amber", "black", "blue", "copper", "green", "ivory", "olive", "red", "silver", "white")
_SHAPES = (
    "arched",
    "folding",
    "hanging",
    "long",
    "narrow",
    "oval",
    "round",
    "tall",
    "wide",
    "woven",
)
_THINGS = (
    "basket",
    "bench",
    "bowl",
    "chair",
    "desk",
    "lamp",
    "mirror",
    "shelf",
    "stool",
    "table",
    "vase",
    "wardrobe",
)
PRODUCTS = tuple(map(" ".join, itertools.product(_COLOURS, _SHAPES, _THINGS)))


class Catalogue:
    """The products, with a cache of earlier searches.

    The cache is one round trip away; a sleep stands for the network.
    """

    def __init__(
        self, *, compares_all: bool, yields_each_row: bool, cache_seconds: float = 0.002
    ) -> None:
        self._compares_all = compares_all
        self._yields_each_row = yields_each_row
        self._cache_seconds = cache_seconds

    async def rank_results(self, query: str) -> list[str]:
        """Ask the cache, compare, update the cache; return the products most like ``query``."""
        await asyncio.sleep(self._cache_seconds)
        candidates = (
            PRODUCTS
            if self._compares_all
            else [name for name in PRODUCTS if query.rsplit(maxsplit=1)[-1] in name]
        )
        found = (
            difflib.get_close_matches(query, candidates, cutoff=0.1)
            if self._compares_all
            else candidates[:3]
        )
        await asyncio.sleep(self._cache_seconds)
        return list(found)

    async def write_rows(self) -> str:
        """Return all products as lines of a CSV file."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        for number, name in enumerate(PRODUCTS):
            colour, shape, thing = name.split()
            rows.writerow((number, colour, shape, thing))
            if self._yields_each_row:
                await asyncio.sleep(0)
        return text.getvalue()

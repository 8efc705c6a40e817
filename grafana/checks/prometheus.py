"""Run the queries of dashboards on a Prometheus, with variables replaced as in Grafana."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Steps of a range query. Grafana uses about as many as a panel has pixels, but no more than
#: scrapes.
STEPS = 120


@dataclass(frozen=True, slots=True)
class Window:
    """The time range of a dashboard in Unix seconds, and the scrape interval of its data."""

    start: float
    end: float
    scrape_seconds: float = 15

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max((self.end - self.start) / STEPS, self.scrape_seconds)

    @property
    def variables(self) -> dict[str, str]:
        """Values of Grafana's built-in variables."""
        rate_interval = max(self.step + self.scrape_seconds, 4 * self.scrape_seconds)
        return {
            "__rate_interval": f"{rate_interval:.0f}s",
            "__range": f"{self.end - self.start:.0f}s",
            "__interval": f"{self.step:.0f}s",
        }


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel that is not a row, including those in collapsed rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def fill(expression: str, variables: Mapping[str, str]) -> str:
    """Replace ``$name`` and ``${name}`` in ``expression``; other variables become ``.*``.

    ``$1`` is no variable but a group of ``label_replace``.
    """
    return re.sub(
        r"\$\{?([A-Za-z_]\w*)(?::\w+)?\}?", lambda match: variables.get(match[1], ".*"), expression
    )


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus server at ``url``."""

    url: str

    def get(self, path: str, **parameters: object) -> Any:
        """Return the ``data`` of an API call.

        Raises ValueError with the server's message if it refuses the call.
        """
        request = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - the user names the server
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(
                f"{self.url} refused {parameters.get('query')!r}: "
                f"{json.load(error).get('error', error)}"
            ) from error

    def ask(
        self,
        target: Mapping[str, Any],
        window: Window,
        variables: Mapping[str, str],
        **more: object,
    ) -> Any:
        """Run ``target``, a query of a panel, and return its result.

        It is a vector at the end of ``window`` for an instant query, else a matrix over ``window``.
        """
        expression = fill(target["expr"], {"topk": "10", **window.variables, **variables})
        if target.get("instant"):
            return self.get("query", query=expression, time=window.end, **more)
        return self.get(
            "query_range",
            query=expression,
            start=window.start,
            end=window.end,
            step=window.step,
            **more,
        )

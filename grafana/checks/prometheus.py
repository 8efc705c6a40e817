"""Ask a Prometheus what the panels of a dashboard ask it, with the variables filled in as Grafana would."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Steps of a range query; Grafana asks for about as many as a panel has pixels, and for no more than there are scrapes.
STEPS = 120


@dataclass(frozen=True, slots=True)
class Window:
    """The time range of a dashboard, in Unix seconds, and the scrape interval of what it shows."""

    start: float
    end: float
    scrape_seconds: float = 15

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max((self.end - self.start) / STEPS, self.scrape_seconds)

    @property
    def variables(self) -> dict[str, str]:
        """What Grafana makes of its built-in variables."""
        return {
            "__rate_interval": f"{max(self.step + self.scrape_seconds, 4 * self.scrape_seconds):.0f}s",
            "__range": f"{self.end - self.start:.0f}s",
            "__interval": f"{self.step:.0f}s",
        }


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that shows something, those of collapsed rows included."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def fill(expression: str, variables: Mapping[str, str]) -> str:
    """``expression`` with ``$name`` and ``${name}`` replaced; a variable that is not given matches everything."""
    return re.sub(
        r"\$\{?(\w+)(?::\w+)?\}?", lambda match: variables.get(match[1], ".*"), expression
    )


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server at ``url``."""

    url: str

    def get(self, path: str, **parameters: object) -> Any:
        """The ``data`` of an API call; raises ValueError with the server's words if it refuses."""
        request = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - the user names the server
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(
                f"{self.url} refused {parameters.get('query')!r}: {json.load(error).get('error', error)}"
            ) from error

    def ask(
        self,
        target: Mapping[str, Any],
        window: Window,
        variables: Mapping[str, str],
        **more: object,
    ) -> Any:
        """What ``target`` of a panel returns: a vector at the end of ``window`` if it is instant, else a matrix over it."""
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

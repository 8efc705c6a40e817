"""Scrape an exporter again and again, from a process of its own.

``python -m harness.scraper PORT SECONDS [PAUSE [COUNT]]`` prints the seconds that each scrape took,
and the size of the last one.
"""

from __future__ import annotations

import http.client
import json
import sys
from time import perf_counter, sleep

#: The Accept header that Prometheus sends.
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def main(port: str, seconds: str, pause: str = "0", count: str = "3") -> None:
    """Scrape until the time is up, at least so many times, and pause after each scrape."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    took: list[float] = []
    body = b""
    ends = perf_counter() + float(seconds)
    while len(took) < int(count) or perf_counter() < ends:
        started = perf_counter()
        connection.request("GET", "/metrics", headers={"Accept": ACCEPT})
        response = connection.getresponse()
        body = response.read()
        took.append(perf_counter() - started)
        sleep(float(pause))
        if response.status != http.client.OK:
            raise RuntimeError(f"/metrics answered {response.status}: {body[:200]!r}")
    lines = body.decode().splitlines()
    print(
        json.dumps(
            {
                "seconds": took,
                "bytes": len(body),
                "series": sum(not line.startswith("#") for line in lines),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A real Prometheus that scrapes one port every second and can be queried afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: soak
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, by the address of its API."""

    url: str

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series of an instant query."""
        with urllib.request.urlopen(  # noqa: S310 - to itself
            f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=60
        ) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def number(self, query: str) -> float:
        """Return the value of the only series; 0 if there is none."""
        return sum(value for _, value in self.ask(query))


@contextmanager
def prometheus(binary: str, port: int, directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that keeps its data below ``directory``."""
    configuration = directory / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(port=port), encoding="utf-8")
    command = [
        binary,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            log = ""
            while (
                address := re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", log)
            ) is None or "ready to receive" not in log:
                line = process.stderr.readline()
                assert line, log
                log += line
            reader = threading.Thread(target=process.stderr.read)
            reader.start()
            yield Prometheus(f"http://{address[1]}")
        finally:
            process.terminate()
        reader.join()

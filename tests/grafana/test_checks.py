"""The simulated fleet of the checks, and what is said where the SDK of Grafana is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_remote_write_message_is_what_prometheus_reads() -> None:
    """Labels are sorted, values little-endian, milliseconds varints, and all is Snappy literals."""
    code = (
        "from grafana.checks.simulation import course, series, snappy;"
        "message = series({'a': 'b', '__name__': 'up'}, course([300], [1.0]));"
        "print(message.hex()); print(snappy(message).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    labels = "0a0e" + "0a085f5f6e616d655f5f" + "12027570" + "0a06" + "0a0161" + "120162"
    sample = "120c" + "09000000000000f03f" + "10ac02"
    message = "0a26" + labels + sample
    assert [message, "28" + "f4" + "2700" + message] == done.stdout.split()


def test_it_says_what_to_install_where_the_sdk_is_missing(root: Path) -> None:
    """Not everybody who draws a board has installed what dashboards are made with."""
    program = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None; "
        "import runpy; runpy.run_module('grafana.generate', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert 1 == done.returncode
    assert "pip install --group dashboards" in done.stderr
    assert "Traceback" not in done.stderr

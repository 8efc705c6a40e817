"""What docs/deployment.md tells people to write is run as it stands there; only addresses are others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below one question."""
    found: str = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return found


def block(heading: str, language: str) -> str:
    """The only fenced block of one language below a question."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section(heading), flags=re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with the program that the examples import."""
    (tmp_path / "shop.py").write_text("import asyncio\n\n\nasync def main():\n    await asyncio.sleep(0)\n", encoding="utf-8")
    return tmp_path


def test_the_batch_job_delivers(shop: Path) -> None:
    """The main coroutine of the example is in the file that it writes here instead of pushing."""
    program = block("How do I get the metrics of a batch job?", "python")
    (shop / "job.py").write_text(program.replace('gateway="http://pushgateway:9091"', 'textfile="job.prom"'), encoding="utf-8")
    done = subprocess.run([sys.executable, "job.py"], cwd=shop, check=False, capture_output=True, text=True, timeout=60)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    written = (shop / "job.prom").read_text(encoding="utf-8").splitlines()
    assert 'asyncio_task_wall_seconds_count{coroutine="shop.main",job="nightly_import",status="completed"} 1.0' in written

"""A package of somebody else's that has the name of ours is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiometrics.base.installation import warn_of_namesake


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aiometrics-0.0.2.dist-info", 1),
        ("aiometrics-0.0.2.egg-info", 1),
        ("aiometrics_exporter-0.1.0.dist-info", 0),
        ("aiometrics", 0),
    ],
)
def test_a_namesake_is_reported(
    name: str, expected: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning says how to get rid of it; our own files are no reason for one."""
    (tmp_path / name).mkdir()
    warn_of_namesake(str(tmp_path))
    assert expected == len(caplog.messages)
    assert all("--force-reinstall aiometrics-exporter" in each for each in caplog.messages)


def test_an_archive_is_no_reason_to_fail(tmp_path: Path) -> None:
    """Nor is a directory that cannot be read."""
    warn_of_namesake(str(tmp_path / "missing"))

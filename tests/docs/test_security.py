"""The files in docs/security.md work as they stand there, with a real Prometheus."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import yaml
from support.prometheus_server import Prometheus, listening, running

import aiometrics

PASSWORD = "wonderland"  # noqa: S105 - only for tests
SECONDS = 300


@pytest.fixture(scope="module")
def examples(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two files on the page: ours and Prometheus's."""
    page = (root / "docs/security.md").read_text(encoding="utf-8")
    ours, theirs = (
        yaml.safe_load(block)
        for block in re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    )
    return ours, theirs


@pytest.fixture(scope="module")
def directory(
    examples: tuple[dict[str, Any], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a directory with every file that the examples name, and ``web.yml`` itself.

    Its hash is that of ``PASSWORD``.
    """
    path = tmp_path_factory.mktemp("security")
    ours, _ = examples
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "ca.crt")
    names = {
        "server": "127.0.0.1",
        "prometheus": ours["tls_server_config"]["client_allowed_sans"][0],
    }
    for file, name in names.items():
        certificate = authority.issue_cert(name)
        certificate.cert_chain_pems[0].write_to_path(path / f"{file}.crt")
        certificate.private_key_pem.write_to_path(path / f"{file}.key")
    (path / "password").write_text(PASSWORD)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    (path / "web.yml").write_text(
        yaml.safe_dump(
            {**ours, "basic_auth_users": dict.fromkeys(ours["basic_auth_users"], hashed)}
        )
    )
    return path


@pytest.fixture(scope="module")
def prometheus(
    examples: tuple[dict[str, Any], dict[str, Any]], directory: Path, binary: Callable[[str], str]
) -> Iterator[Prometheus]:
    """Return a Prometheus that scrapes an exporter as the page says.

    Three more jobs leave out the password, the certificate or TLS.
    """
    _, theirs = examples
    (job,) = theirs["scrape_configs"]
    incomplete = {
        "no_password": {name: value for name, value in job.items() if name != "basic_auth"},
        "no_certificate": {**job, "tls_config": {"ca_file": "ca.crt"}},
        "no_tls": {
            name: value for name, value in job.items() if name not in {"scheme", "tls_config"}
        },
    }
    with aiometrics.start_exporter(
        0, "127.0.0.1", web_config=directory / "web.yml", registry=None
    ) as exporter:
        jobs = {"complete": job, **incomplete}
        target = {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "static_configs": [{"targets": [f"127.0.0.1:{exporter.port}"]}],
        }
        file = directory / "prometheus.yml"
        file.write_text(
            yaml.safe_dump(
                {
                    "scrape_configs": [
                        {**each, **target, "job_name": name} for name, each in jobs.items()
                    ]
                }
            )
        )
        options = (
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        )
        with running(
            binary("prometheus"), *options, announces=['msg="Listening on"', "Server is ready"]
        ) as printed:
            address = listening(printed)
            yield Prometheus(f"http://{address}", time.monotonic() + SECONDS)


def test_promtool_accepts_the_web_config_file(
    directory: Path, binary: Callable[[str], str]
) -> None:
    """Prometheus's own tool accepts the file that the exporter reads.

    The names of clients are left out, since some versions of the tool do not know them.
    """
    document = yaml.safe_load((directory / "web.yml").read_text())
    del document["tls_server_config"]["client_allowed_sans"]
    path = directory / "older.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [binary("promtool"), "check", "web-config", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert f"{path} SUCCESS" == (done.stdout + done.stderr).strip()


#: Patterns of the error of each job's scrapes. A scrape that is late on a busy machine fails for
#: another reason, but not each time.
REASONS = {
    "complete": "",
    "no_password": "server returned HTTP status 401 Unauthorized",
    "no_certificate": (
        ".*(tls: certificate required|bad certificate|connection reset|EOF|broken pipe).*"
    ),
    "no_tls": ".*(malformed HTTP response|EOF|connection reset).*",
}


def test_prometheus_scrapes_with_the_documented_configuration(prometheus: Prometheus) -> None:
    """A scrape that lacks TLS, the certificate or the password fails with that reason."""

    def as_expected(found: dict[str, tuple[str, str]]) -> bool:
        up = {job: ("up" if job == "complete" else "down") for job in REASONS}
        return up == {job: health for job, (health, _) in found.items()} and all(
            re.fullmatch(reason, found[job][1]) for job, reason in REASONS.items()
        )

    def targets() -> dict[str, tuple[str, str]]:
        active = prometheus.get("targets")["activeTargets"]
        return {
            target["labels"]["job"]: (target["health"], target["lastError"]) for target in active
        }

    found = prometheus.until(as_expected, targets)
    assert as_expected(found), found

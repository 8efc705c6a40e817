"""The Compose stack and the Kubernetes manifests agree with the files and rules that they use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiometrics.exporter import assets

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KUSTOMIZATION = ROOT / "grafana/kustomization.yaml"


def mounts(service: str) -> dict[str, str]:
    """Return the paths of the checkout that a service mounts, by their paths in the container."""
    parts = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return {part[1]: part[0] for part in parts if part[0].startswith("./")}


def manifests(name: str) -> list[dict[str, Any]]:
    """Return the documents of a Kubernetes manifest."""
    return list(yaml.safe_load_all((ROOT / "deploy/kubernetes" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_localhost_only(service: str) -> None:
    """Only users of this machine can reach a service that has no login."""
    assert [] == [port for port in SERVICES[service]["ports"] if not port.startswith("127.0.0.1:")]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_health_check(service: str) -> None:
    """``docker compose up --wait`` returns when all services answer."""
    assert "CMD" == SERVICES[service]["healthcheck"]["test"][0]


def test_images_are_pinned() -> None:
    """Every image has an exact version, so that the same stack starts next year.

    The image that is built here is the exception.
    """
    images = {
        name: service["image"] for name, service in SERVICES.items() if "build" not in service
    }
    assert {"prometheus", "alertmanager", "grafana"} == images.keys()
    assert [] == [image for image in images.values() if not re.search(r":v?\d+\.\d+\.\d+$", image)]


def test_everything_that_is_mounted_exists() -> None:
    """Every mounted path exists: Docker would silently make an empty directory of a missing one."""
    sources = [
        source
        for name in SERVICES
        for source in (mounts(name).values() if "volumes" in SERVICES[name] else ())
    ]
    assert sources
    assert [] == [source for source in sources if not (ROOT / source).exists()]
    assert {"prometheus-data", "alertmanager-data", "grafana-data"} == COMPOSE["volumes"].keys()


def test_prometheus_accepts_its_configuration_where_it_is_mounted(
    tmp_path: Path, binary: Callable[[str], str]
) -> None:
    """Prometheus finds both rule files at the paths where the stack mounts them."""
    for inside, source in mounts("prometheus").items():
        target = tmp_path / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, target)
    configuration = tmp_path / "etc/prometheus/prometheus.yml"
    configuration.write_text(
        configuration.read_text(encoding="utf-8").replace(
            "/etc/prometheus", f"{tmp_path}/etc/prometheus"
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [binary("promtool"), "check", "config", configuration],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "2 rule files found" in done.stdout


def test_prometheus_reaches_the_other_services_by_their_names() -> None:
    """Targets are services of the stack, at ports that these publish."""
    configuration = yaml.safe_load(
        (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    )
    groups = [*configuration["alerting"]["alertmanagers"], *configuration["scrape_configs"]]
    targets = [
        target.split(":")
        for group in groups
        for static in group["static_configs"]
        for target in static["targets"]
    ]
    assert {"alertmanager", "demo"} == {name for name, _ in targets}
    assert [] == [
        name
        for name, port in targets
        if not any(published.endswith(f":{port}") for published in SERVICES[name]["ports"])
    ]


def test_grafana_finds_data_source_and_dashboards_where_they_are_mounted() -> None:
    """Grafana reads the mounted dashboards, and its home dashboard is one of them."""
    (provider,) = yaml.safe_load(
        (ROOT / "grafana/provisioning/dashboards/aiometrics.yml").read_text(encoding="utf-8")
    )["providers"]
    inside = provider["options"]["path"]
    assert "./grafana/dashboards" == mounts("grafana")[inside]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana/dashboards" / Path(home).relative_to(inside)).is_file()
    sources = yaml.safe_load(
        (ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    )["datasources"]
    assert {"http://prometheus:9090", "http://alertmanager:9093"} == {
        source["url"] for source in sources
    }


def test_anonymous_users_can_only_view() -> None:
    """Grafana accepts no login, not even with the well-known default password."""
    environment = SERVICES["grafana"]["environment"]
    assert "Viewer" == environment["GF_AUTH_ANONYMOUS_ORG_ROLE"]
    assert ("true", "false") == (
        environment["GF_AUTH_DISABLE_LOGIN_FORM"],
        environment["GF_AUTH_BASIC_ENABLED"],
    )


def test_alerts_that_inhibit_others_exist() -> None:
    """Inhibitions of Alertmanager name alerts of the rules, and every route leads to a receiver."""
    configuration = yaml.safe_load(
        (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    )
    alerts = set(
        re.findall(
            r"alert: (\w+)", (ROOT / "rules/aiometrics.alerts.yml").read_text(encoding="utf-8")
        )
    )
    named = set(re.findall(r"Asyncio\w*(?:\.\*)?", json.dumps(configuration["inhibit_rules"])))
    assert [] == [name for name in named if not any(re.fullmatch(name, one) for one in alerts)]
    route = configuration["route"]
    used = {route["receiver"], *(inner["receiver"] for inner in route["routes"])}
    assert used == {receiver["name"] for receiver in configuration["receivers"]}


def test_prometheus_rule_holds_the_rules() -> None:
    """The operator's manifest holds the unchanged groups of both rule files."""
    files = [ROOT / "rules" / f"aiometrics.{kind}.yml" for kind in ("rules", "alerts")]
    groups = [
        group
        for path in files
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    (manifest,) = manifests("prometheusrule.yaml")
    assert ("monitoring.coreos.com/v1", "PrometheusRule") == (
        manifest["apiVersion"],
        manifest["kind"],
    )
    assert groups == manifest["spec"]["groups"]


def config_maps() -> list[dict[str, Any]]:
    """The ConfigMaps that kustomize makes of ``grafana/kustomization.yaml``, in their order."""
    kustomization = yaml.safe_load(KUSTOMIZATION.read_text(encoding="utf-8"))
    options = kustomization["generatorOptions"]
    assert options["disableNameSuffixHash"]
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": generator["name"],
                "labels": options["labels"],
                "annotations": options["annotations"],
            },
            "data": {
                key: (KUSTOMIZATION.parent / path).read_text(encoding="utf-8")
                for key, _, path in (file.partition("=") for file in generator["files"])
            },
        }
        for generator in kustomization["configMapGenerator"]
    ]


def test_config_maps_hold_the_dashboards() -> None:
    """Each dashboard has a ConfigMap with the label that Grafana's sidecar looks for.

    Each is small enough for ``kubectl apply``, which keeps 256 KiB in an annotation.
    """
    found: dict[str, str] = {}
    for manifest in config_maps():
        assert "1" == manifest["metadata"]["labels"]["grafana_dashboard"]
        assert len(json.dumps(manifest)) < 256 * 1024
        (name,) = manifest["data"]
        assert f"{manifest['metadata']['name']}.json" == name.replace("-", "-dashboard-", 1)
        found |= manifest["data"]
    assert {
        f"aiometrics-{path.name}": path.read_text(encoding="utf-8")
        for path in (ROOT / "grafana/dashboards").glob("*.json")
    } == found


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_makes_the_config_maps_of_exported_assets(tmp_path: Path) -> None:
    """``kubectl kustomize`` accepts what ``export-assets`` wrote, and makes the same ConfigMaps."""
    assets.export(tmp_path)
    built = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "grafana"],  # noqa: S607 - the user's own kubectl
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    def by_name(manifest: dict[str, Any]) -> str:
        return str(manifest["metadata"]["name"])

    assert sorted(config_maps(), key=by_name) == sorted(yaml.safe_load_all(built), key=by_name)


def test_pod_monitor_scrapes_labelled_pods() -> None:
    """It selects labelled pods, has a timeout below the interval, and names instances by pod."""
    (manifest,) = manifests("podmonitor.yaml")
    (endpoint,) = manifest["spec"]["podMetricsEndpoints"]
    assert {"aiometrics": "scrape"} == manifest["spec"]["selector"]["matchLabels"]
    assert ("aiometrics", "/metrics", "15s", "10s") == tuple(
        endpoint[key] for key in ("port", "path", "interval", "scrapeTimeout")
    )
    assert [
        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
    ] == endpoint["relabelings"]


def test_image_is_built_from_what_the_package_needs() -> None:
    """The build context contains what the build reads and nothing else."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    code = {"!aiometrics", "!pyproject.toml", "!setup.py", "!MANIFEST.in", "!README.md", "!LICENSE"}
    exported = {
        "!deploy/kubernetes",
        "!grafana/dashboards",
        "!grafana/dashboards-v2",
        "!grafana/kustomization.yaml",
        "!prometheus.yml",
        "!rules",
    }
    assert code | exported == {line for line in lines if line.startswith("!")}

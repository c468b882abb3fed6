"""examples/kubernetes/echo.yaml: valid by Kubernetes' schemas, and its config works as it says."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest
import yaml

from meshtrio.config import GatewayConfig, load
from meshtrio.messages import health
from meshtrio.util.dns_target import DnsTarget
from tests import ROOT
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, serve_mesh
from tests.support.ports import find_free_port

MANIFEST = ROOT / "examples" / "kubernetes" / "echo.yaml"
RESOURCES: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
_OLDEST_VERSION = "1.30"
"""The first version of Kubernetes in which `preStop` may be `sleep`."""


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = (r for r in RESOURCES if (r["kind"], r["metadata"]["name"]) == (kind, name))
    return found


POD: dict[str, Any] = find("Deployment", "echo")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("version", [_OLDEST_VERSION, str(kubernetes_validate.latest_version())])
@pytest.mark.parametrize(
    "resource", RESOURCES, ids=lambda r: f"{r['kind']} {r['metadata']['name']}"
)
def test_each_resource_is_valid(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, f"{version}.0", strict=True)


def test_a_wrong_manifest_is_noticed() -> None:
    wrong = find("Service", "echo") | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, f"{_OLDEST_VERSION}.0", strict=True)


def read_config(name: str, folder: Path) -> str:
    """Return the config in a ConfigMap, with this machine's program and folder for the image's."""
    text: str = find("ConfigMap", name)["data"]["mesh.toml"]
    text = text.replace('"python"', f'"{sys.executable}"')
    text = text.replace('"/app"', f'"{ECHO_PLUGIN_DIRECTORY}"')
    (folder / "mesh.toml").write_text(text)
    return text


def test_a_pod_has_the_time_to_stop(tmp_path: Path) -> None:
    read_config("echo-mesh", tmp_path)
    (plugin,) = load(tmp_path / "mesh.toml").plugins
    prestop = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = prestop + plugin.stop_timeout + GatewayConfig().drain_timeout
    assert POD["terminationGracePeriodSeconds"] >= needed + 10


def test_the_parts_refer_to_each_other(tmp_path: Path) -> None:
    config = tomllib.loads(read_config("echo-mesh", tmp_path))
    port = int(config["mesh"]["gateway"]["listen"].rpartition(":")[2])
    (container_port,), (service_port,) = (
        CONTAINER["ports"],
        find("Service", "echo")["spec"]["ports"],
    )
    assert container_port["containerPort"] == service_port["port"] == port
    assert service_port["targetPort"] == container_port["name"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"]["port"] == port
    assert find("Service", "echo")["spec"]["clusterIP"] == "None"
    read_config("caller-mesh", tmp_path)
    (table,) = load(tmp_path / "mesh.toml").services
    assert table.dns_targets == (DnsTarget("echo.default.svc.cluster.local.", port),)
    assert table.name == CONTAINER["readinessProbe"]["grpc"]["service"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert CONTAINER["args"][-1] == f"{mounts['config']}/mesh.toml"
    assert CONTAINER["env"] == [{"name": "XDG_RUNTIME_DIR", "value": mounts["run"]}]
    assert {volume["name"] for volume in POD["volumes"]} == mounts.keys()


def check_health(channel: grpc.Channel, probe: dict[str, Any]) -> int:
    """Make a probe as the kubelet does."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    request = health.HealthCheckRequest(service=probe["grpc"].get("service", ""))
    status: int = check(request, timeout=30, wait_for_ready=True).status
    return status


def test_the_probes_follow_the_plugin(tmp_path: Path, short_dir: Path) -> None:
    port = find_free_port()
    config = read_config("echo-mesh", tmp_path)
    config = config.replace("tcp://0.0.0.0:7443", f"tcp://127.0.0.1:{port}")
    status = health.HealthCheckResponse
    with (
        serve_mesh(short_dir, config, min_ready=2) as mesh,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert check_health(channel, CONTAINER["readinessProbe"]) == status.SERVING
        # The command of the page, for gateways with TLS.
        command = ["health", "echo"]
        assert mesh.run_command(*command).returncode == 0
        assert mesh.run_command("stop", "echo").returncode == 0
        assert check_health(channel, CONTAINER["readinessProbe"]) == status.NOT_SERVING
        assert check_health(channel, CONTAINER["livenessProbe"]) == status.SERVING
        assert mesh.run_command(*command).returncode != 0

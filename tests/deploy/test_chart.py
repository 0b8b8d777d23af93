"""The Helm chart as files: values, their schema and table, copies, scripts. Helm runs in with_helm.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from regproxy.config.settings import SETTINGS
from tests.deploy import chart
from tests.support import ROOT
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

SCHEMA: dict[str, Any] = json.loads((chart.CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load(chart.VALUES.read_text())
MATRIX = sorted((chart.CHART / "ci").glob("*.yaml"))
# Variables that the templates set: read by others than config/settings.py, and the admin API's.
ELSEWHERE = {"REGPROXY_CONFIG", "REGPROXY_SETUP_ROOT"}
ELSEWHERE |= {"REGPROXY_ADMIN_TOKEN_FILE", "REGPROXY_ADMIN_READ_TOKEN_FILE"}


def faults(values: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft7Validator(SCHEMA).iter_errors(values)]


def laid_over(below: Any, above: Any) -> Any:
    """As Helm lays values over the defaults."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: laid_over(below.get(key), value) for key, value in above.items()}


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", MATRIX, ids=lambda path: path.stem)
def test_the_schema_takes(path: Path) -> None:
    assert faults(DEFAULTS) == []
    assert faults(laid_over(DEFAULTS, yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"replica": 2}, "$"),
        ({"replicas": "2"}, "$.replicas"),
        ({"cache": {"maxSize": "32Gi"}}, "$.cache.maxSize"),
        ({"cache": {"persistence": {"size": "32g"}}}, "$.cache.persistence.size"),
        ({"drainTimeout": "30s"}, "$.drainTimeout"),
        ({"settings": {"enableManifestCache": True}}, "$.settings"),
        ({"settings": {"REGISTRIES": ["ghcr.io"]}}, "$.settings.REGISTRIES"),
        ({"registries": ["ghcr.io quay.io"]}, "$.registries[0]"),
        ({"ports": {"proxy": 443}}, "$.ports.proxy"),
        ({"service": {"nodePort": 3128}}, "$.service.nodePort"),
        ({"image": {"repository": "r", "digest": "0"}}, "$.image.digest"),
        ({"nodes": {"proxy": "http://10.0.0.1:3128"}}, "$.nodes.proxy"),
        ({"nodes": {"proxy": "regproxy.cache.svc:3128"}}, "$.nodes.proxy"),
        ({"networkPolicy": {"clientCIDRs": ["10.0.0.1"]}}, "$.networkPolicy.clientCIDRs[0]"),
        ({"extraPorts": [{"name": "admin", "port": 1}]}, "$.extraPorts[0].name"),
    ],
    ids=str,
)
def test_the_schema_refuses(values: dict[str, Any], fault: str) -> None:
    assert faults(laid_over(DEFAULTS, values)) == [fault]


def keys(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the paths that the schema has a place for and values.yaml has not, or the other way round."""
    listed = schema.get("properties", {})
    if not (schema.get("additionalProperties") is False and listed):
        return
    for key in sorted(value.keys() ^ listed.keys()):
        yield f"{path}{key}"
    for key in value.keys() & listed.keys():
        if isinstance(value[key], dict):
            yield from keys(value[key], listed[key], f"{path}{key}.")


def test_schema_and_values_have_the_same_keys() -> None:
    # "global" is Helm's own. An issuer has no default, and each of its keys may be left out.
    issuer = [f"ca.certManager.issuerRef.{key}" for key in ("group", "kind", "name")]
    assert sorted(keys(DEFAULTS, SCHEMA)) == sorted(["global", *issuer])


def test_every_value_is_documented() -> None:
    assert [value.path for value in chart.values() if not value.meaning] == []
    assert chart.table() in chart.README.read_text(), "run: make chart"


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text() for path in (chart.CHART / "templates").rglob("*.*"))
    lost = [
        value.path
        for value in chart.values()
        if not re.search(rf"\.{value.path.split('.')[-1]}\b", templates)
    ]
    assert lost == []


def test_copies_are_equal() -> None:
    there = chart.copies()
    found = {path for path in (chart.CHART / "files").rglob("*") if path.suffix in (".yaml", ".json")}
    assert found == set(there)
    for copy, source in there.items():
        assert copy.read_bytes() == source.read_bytes(), f"{copy}: run: make chart"


def test_it_sets_settings_that_exist() -> None:
    known = {setting.name for setting in SETTINGS} | ELSEWHERE
    templates = "".join(path.read_text() for path in (chart.CHART / "templates").rglob("*.yaml"))
    found = set(re.findall(r"^ +- name: ([A-Z][A-Z0-9_]+)$", templates, re.M)) - {"PROXY", "INTERVAL"}
    assert "REGPROXY_DRAIN_TIMEOUT" in found
    assert found <= known
    # `settings` may not have them, too.
    helpers = (chart.CHART / "templates" / "_helpers.tpl").read_text()
    assert [name for name in found - {"REGPROXY_SETUP_ROOT"} if f'"{name}"' not in helpers] == []


def test_versions_are_the_program_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert found["appVersion"] == version


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory for PATH with this tree's `regproxy`."""
    program = tmp_path / "bin" / "regproxy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m regproxy "$@"\n')
    program.chmod(0o755)
    return program.parent


def test_nodes_are_set_up_while_it_runs(tmp_path: Path, tools: Path) -> None:
    """nodes.sh, on the directories of a node: hosts.toml is there until SIGTERM."""
    node, tmp = tmp_path / "node", tmp_path / "tmp"
    containerd = node / "etc" / "containerd"
    containerd.mkdir(parents=True)
    tmp.mkdir()
    config = containerd / "config.toml"
    before = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
    before += '  config_path = "/etc/containerd/certs.d"\n'
    config.write_text(before)
    with Proxy(tmp_path / "proxy") as proxy:
        env = {
            "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PROXY": proxy.url,
            "INTERVAL": "600",
            "REGPROXY_SETUP_ROOT": str(node),
            "TMPDIR": str(tmp),
        }
        script = ["sh", str(chart.CHART / "files" / "nodes.sh")]
        with subprocess.Popen(script, env=env, stdout=subprocess.PIPE, text=True, process_group=0) as running:
            try:
                wait_until((tmp / "done").exists, "the node is set up")
                hosts = containerd / "certs.d" / "_default" / "hosts.toml"
                table = tomllib.loads(hosts.read_text())["host"][proxy.url]
                assert table["capabilities"] == ["pull", "resolve"]
                running.terminate()
                said, _ = running.communicate(timeout=30)
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, 9)
        assert running.returncode == 0, said
        assert "removed /etc/containerd/certs.d/_default/hosts.toml" in said
    assert sorted(path for path in node.rglob("*") if path.is_file()) == [config]
    assert config.read_text() == before


def test_helm_test_asks_every_replica(tmp_path: Path) -> None:
    check = [sys.executable, str(chart.CHART / "files" / "check.py")]
    with Proxy(tmp_path) as proxy:
        admin = f"http://{proxy.admin_address[0]}:{proxy.admin_port}"
        passed = subprocess.run([*check, proxy.url, admin], capture_output=True, text=True)
        assert (passed.returncode, passed.stdout) == (
            0,
            f"{proxy.url} has a CA, 1 of 1 replicas are ready\n",
        )
        # The port for clients answers every path with 200, but /ca.crt alone with the CA.
        failed = subprocess.run([*check, admin, admin], capture_output=True, text=True)
        assert failed.returncode == 1

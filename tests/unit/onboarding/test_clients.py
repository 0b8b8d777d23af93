"""Set-ups that are files: parsed as their programs do."""

from __future__ import annotations

import base64
import email
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from regproxy.config.values.host_rules import HostRule
from regproxy.onboarding.clients import CLIENTS, NO_PROXY, Setup, mirrored
from regproxy.onboarding.proxy_address import ProxyAddress
from tests.support.fake_host import FakeHost

PEM = "-----BEGIN CERTIFICATE-----\nMIIBnot/a/real+one=\n-----END CERTIFICATE-----\n"
PROXY = "proxy.example:3128"
URL = f"http://{PROXY}"
REGISTRIES = ("docker.io", "ghcr.io", "reg.example:5000")
USER_DATA_MAX = 16_384  # bytes, of EC2


def render(name: str, proxy: str = PROXY) -> str:
    address = ProxyAddress.parse(proxy)
    assert address is not None
    return Setup(address, PEM, REGISTRIES).render(CLIENTS[name])


def uncommented(text: str, first: str) -> str:
    """Return the lines of a comment from `first` on, without their marks."""
    lines = text.splitlines()
    return "\n".join(re.sub(r"^# ?", "", line) for line in lines[lines.index(f"# {first}") :])


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("proxy", [PROXY, "10.0.0.1", "[2001:db8::1]:3128"])
def test_every_one_is_filled_in(proxy: str, name: str) -> None:
    text = render(name, proxy)
    assert proxy in text
    assert re.search(r"@[A-Z_]+@|^#@", text, re.MULTILINE) is None


@pytest.mark.parametrize("name", CLIENTS)
def test_every_one_has_an_undo(name: str) -> None:
    client = CLIENTS[name]
    assert client.undo.format(url="u")
    if client.kind in ("toml", "yaml", "txt"):
        assert "Undo: " in render(name)


@pytest.mark.parametrize("name", [name for name, client in CLIENTS.items() if "{url}" in client.command])
def test_commands(name: str) -> None:
    """The command of the page is shell, and its URL is whole."""
    for text in (CLIENTS[name].command, CLIENTS[name].undo):
        if "curl" in text:
            words = text.format(url=f"{URL}/setup/{name}")
            assert subprocess.run(["sh", "-n", "-c", words], check=False, timeout=20).returncode == 0


def test_buildkit() -> None:
    registry = tomllib.loads(render("buildkit"))["registry"]
    assert registry.pop(PROXY) == {"http": True}
    assert registry == {name: {"mirrors": [PROXY]} for name in REGISTRIES}


def test_gitlab_runner() -> None:
    (runner,) = tomllib.loads(render("gitlab-runner"))["runners"]
    (service,) = runner["docker"]["services"]
    assert service == {"name": "docker:dind", "alias": "docker", "command": ["--registry-mirror", URL]}


def test_bottlerocket() -> None:
    text = render("bottlerocket")
    settings = tomllib.loads(text)["settings"]
    assert settings["container-registry"]["mirrors"] == [
        {"registry": name, "endpoint": [URL]} for name in REGISTRIES
    ]
    other = tomllib.loads(uncommented(text, "[settings.network]"))["settings"]
    assert other["network"] == {"https-proxy": URL, "no-proxy": list(NO_PROXY)}
    assert base64.b64decode(other["pki"]["regproxy"]["data"]).decode() == PEM
    assert other["pki"]["regproxy"]["trusted"] is True


def test_talos() -> None:
    text = render("talos")
    mirrors = yaml.safe_load(text)["machine"]["registries"]["mirrors"]
    assert mirrors == {name: {"endpoints": [URL]} for name in REGISTRIES}
    machine, roots = yaml.safe_load_all(uncommented(text, "machine:"))
    assert machine["machine"]["env"] == {"https_proxy": URL, "no_proxy": ",".join(NO_PROXY)}
    assert (roots["kind"], roots["certificates"].strip()) == ("TrustedRootsConfig", PEM.strip())


def test_aks() -> None:
    found = json.loads(render("aks"))
    assert base64.b64decode(found.pop("trustedCa")).decode() == PEM
    assert found == {"httpsProxy": URL, "noProxy": list(NO_PROXY)}


def test_gke() -> None:
    hosts = yaml.safe_load(render("gke"))["registryHosts"]
    assert [entry["server"] for entry in hosts] == list(REGISTRIES)
    for entry in hosts:
        (host,) = entry["hosts"]
        assert host == {
            "host": URL,
            "capabilities": ["HOST_CAPABILITY_PULL", "HOST_CAPABILITY_RESOLVE"],
            "dialTimeout": "5s",
        }


def test_eks(tmp_path: Path) -> None:
    """cloud-init reads user data as MIME, and runs the part that is a script."""
    text = render("eks")
    assert len(text.replace(PEM, PEM * 20)) < USER_DATA_MAX  # with a CA of 4 KB in the place of the short one
    message = email.message_from_string(text)
    (part,) = (part for part in message.walk() if not part.is_multipart())
    assert part.get_content_type() == "text/x-shellscript"
    script = part.get_payload()
    assert isinstance(script, str)
    assert script.startswith("#!/bin/sh\n")
    host = FakeHost(tmp_path, "rhel")
    assert host.run(script).returncode == 0
    assert URL in host.read("/etc/containerd/certs.d/_default/hosts.toml")


def test_docker_desktop() -> None:
    text = render("docker-desktop")
    assert json.loads(text[text.index("{") : text.index("}") + 1]) == {"registry-mirrors": [URL]}


def test_registries_that_can_be_named() -> None:
    rules = [
        HostRule("registry-1.docker.io"),
        HostRule("index.docker.io"),
        HostRule("auth.docker.io"),
        HostRule("docker.caching.proxy.internal"),
        HostRule("dhi.io"),
        HostRule("ghcr.io"),
        HostRule("reg.example", 5000),
        HostRule("ghcr.io"),
        HostRule("*.example.com"),
        HostRule(".example.com"),
        HostRule("reg.*"),
        HostRule(r"~^reg\d\.example$"),
        HostRule("2001:db8::1"),
    ]
    assert mirrored(rules) == ("docker.io", "dhi.io", "ghcr.io", "reg.example:5000")
    assert mirrored(rules[5:7]) == ("ghcr.io", "reg.example:5000")
    assert mirrored([HostRule("*.docker.io")]) == ("docker.io",)
    assert mirrored([]) == ()

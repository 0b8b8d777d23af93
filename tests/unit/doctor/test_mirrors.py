"""Mirrors in files of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from regproxy.doctor.host_files import HostFiles
from regproxy.doctor.mirrors import examine
from regproxy.onboarding.proxy_address import ProxyAddress

ADDRESS = ProxyAddress("proxy.example", 3128)
OURS, OTHER = "http://proxy.example:3128", "https://mirror.example"
CRI = '[plugins."io.containerd.grpc.v1.cri".registry'
HOSTS = "/etc/containerd/certs.d"
PODMAN = "/etc/containers/registries.conf.d/x.conf"


def hosts(*urls: str, server: str = "") -> str:
    lines = [f'server = "{server}"\n'] if server else []
    return "".join([*lines, *(f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n' for url in urls)])


def registry(*mirrors: str) -> str:
    parts = [
        '[[registry]]\nlocation = "ghcr.io"\n',
        *(f'[[registry.mirror]]\nlocation = "{m}"\n' for m in mirrors),
    ]
    return "".join(parts)


CASES = [
    ({}, [], set()),
    ({"/etc/docker/daemon.json": ""}, [], set()),
    ({"/etc/docker/daemon.json": f'{{"registry-mirrors": ["{OURS}/"]}}'}, ["ok"], {"docker"}),
    ({"/etc/docker/daemon.json": f'{{"registry-mirrors": ["{OURS}", "{OTHER}"]}}'}, ["ok"], {"docker"}),
    (
        {"/etc/docker/daemon.json": f'{{"registry-mirrors": ["{OTHER}", "{OURS}"]}}'},
        ["warning", "ok"],
        {"docker"},
    ),
    ({"/etc/docker/daemon.json": '{"registry-mirrors": ["http://proxy.example"]}'}, ["warning"], set()),
    ({"/etc/docker/daemon.json": "{"}, ["error"], set()),
    ({"/etc/docker/daemon.json": "[]"}, ["error"], set()),
    ({"/etc/docker/daemon.json": '{"registry-mirrors": 7}'}, [], set()),
    ({f"{HOSTS}/_default/hosts.toml": hosts(OURS)}, ["ok"], {"containerd"}),
    ({f"{HOSTS}/_default/hosts.toml": hosts(OURS, OTHER)}, ["ok"], {"containerd"}),
    ({f"{HOSTS}/ghcr.io/hosts.toml": hosts(OTHER, OURS)}, ["warning"], set()),
    ({f"{HOSTS}/ghcr.io/hosts.toml": hosts(server="https://ghcr.io")}, [], set()),
    ({f"{HOSTS}/ghcr.io/hosts.toml": hosts(OURS, server=OURS)}, ["warning", "ok"], {"containerd"}),
    ({f"{HOSTS}/ghcr.io/hosts.toml": "host = 7"}, [], set()),
    ({"/etc/docker/certs.d/ghcr.io/hosts.toml": hosts(OURS)}, ["ok"], {"docker"}),
    (
        {
            f"{HOSTS}/_default/hosts.toml": hosts(OURS),
            "/etc/containerd/config.toml": f'version = 2\n{CRI}]\nconfig_path = "{HOSTS}:/x"\n',
        },
        ["ok"],
        {"containerd"},
    ),
    (
        {
            f"{HOSTS}/_default/hosts.toml": hosts(OURS),
            "/etc/containerd/config.toml": f"version = 2\n{CRI}.mirrors.x]\nendpoint = []\n",
        },
        ["ok", "warning", "warning"],
        {"containerd"},
    ),
    ({"/etc/containerd/config.toml": "version = "}, ["error"], set()),
    ({PODMAN: registry("proxy.example:3128/ghcr.io")}, ["ok"], {"podman"}),
    ({PODMAN: registry("mirror.example/x", "proxy.example:3128/ghcr.io")}, ["warning"], set()),
    ({PODMAN: registry("proxy.example:3128/nas.lan:5000")}, ["error"], set()),
    ({PODMAN: registry("mirror.example/x", "proxy.example:3128/nas.lan:5000")}, ["error"], set()),
    ({PODMAN: registry()}, [], set()),
    ({PODMAN: "registry = 7"}, [], set()),
]


@pytest.mark.parametrize("files, levels, by_proxy", CASES)
def test_mirrors(files: dict[str, str], levels: list[str], by_proxy: set[str], tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = examine(HostFiles(tmp_path), ADDRESS)
    assert [finding.level for finding in found.findings] == levels
    assert found.by_proxy == by_proxy
    for finding in found.findings:
        assert bool(finding.fix) == (finding.level != "ok")


def test_no_password_of_a_mirror_is_shown(tmp_path: Path) -> None:
    for name, text in (
        ("etc/docker/daemon.json", '{"registry-mirrors": ["https://u:s3cret@m.example"]}'),
        ("etc/containerd/certs.d/x/hosts.toml", hosts("https://u:s3cret@m.example")),
        ("etc/containers/registries.conf", registry("u:s3cret@m.example/x")),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    lines = [finding.line() for finding in examine(HostFiles(tmp_path), ADDRESS).findings]
    assert len(lines) == 3
    assert "s3cret" not in "".join(lines)

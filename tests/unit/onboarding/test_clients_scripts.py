"""Run the scripts: on each family of systems, in each shell, twice, and back; shellcheck finds nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from regproxy.onboarding.clients import CLIENTS, NO_PROXY, Setup
from regproxy.onboarding.proxy_address import ProxyAddress
from regproxy.onboarding.templates import text_of
from tests.support.fake_host import FakeHost, Family

PEM = "-----BEGIN CERTIFICATE-----\nMIIBnot/a/real+one=\n-----END CERTIFICATE-----\n"
REGISTRIES = ("docker.io", "ghcr.io", "reg.example:5000")
# kind's changes nothing of the host that it runs on.
SCRIPTS = [client.name for client in CLIENTS.values() if client.kind == "sh" and client.name != "kind"]
FAMILIES: tuple[Family, ...] = ("debian", "rhel", "alpine", "suse")
SHELLS = [("sh",), ("bash",), ("busybox", "sh")]
HTTPS_PROXY = ["docker-systemd", "docker-daemon-json", "containerd-proxy"]
MIRRORS = [name for name in SCRIPTS if name not in HTTPS_PROXY]
UNIT = {"docker-systemd": "docker", "containerd-proxy": "containerd"}
TRUST = {
    "debian": "update-ca-certificates",
    "suse": "update-ca-certificates",
    "alpine": "update-ca-certificates",
    "rhel": "update-ca-trust extract",
}


def script(name: str, proxy: str = "proxy.example:3128", pem: str = PEM) -> str:
    address = ProxyAddress.parse(proxy)
    assert address is not None
    return Setup(address, pem, REGISTRIES).render(CLIENTS[name])


def applied(host: FakeHost, name: str, *arguments: str, **env: str) -> str:
    done = host.run(script(name), *arguments, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ca_that_is_replaced(family: Family, tmp_path: Path) -> None:
    """Both have a file of their own; the former one goes when the proxy no longer has it."""
    host, new = FakeHost(tmp_path, family), PEM.replace("real", "new")
    before, place = host.tree(), host.root / "var/lib/regproxy-setup"
    for pem, want in (
        (PEM, {"regproxy.crt": PEM}),
        (new + PEM, {"regproxy.crt": new, "regproxy-2.crt": PEM}),
        (new, {"regproxy.crt": new}),
    ):
        done = host.run(script("docker-daemon-json", pem=pem))
        assert (done.returncode, done.stderr) == (0, "")
        found = [path for path in host.root.rglob("regproxy*.crt") if not path.is_relative_to(place)]
        assert {path.name: path.read_text() for path in found} == want
        assert TRUST[family] in map(str.strip, host.calls())
    assert host.run(script("docker-daemon-json", pem=new), "--undo").returncode == 0
    assert host.tree() == before


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not here")
@pytest.mark.parametrize("name", [*SCRIPTS, "kind", "undo.sh"])
def test_shellcheck(name: str) -> None:
    text = text_of(name).replace("@CLIENT@", "x") if name == "undo.sh" else script(name)
    done = subprocess.run(
        ["shellcheck", "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def has_home(name: str, family: Family) -> bool:
    """Tell whether a set-up can be for such a system: some are systemd's."""
    return family != "alpine" or name not in UNIT


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCRIPTS)
def test_twice_and_back(name: str, family: Family, shell: tuple[str, ...], tmp_path: Path) -> None:
    if not has_home(name, family):
        pytest.skip("needs systemd")
    host = FakeHost(tmp_path, family)
    before = host.tree()
    first = host.run(script(name), shell=shell)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.endswith("regproxy: done\n")
    after = host.tree()
    assert after.keys() > before.keys()
    calls = host.calls()
    second = host.run(script(name), shell=shell)
    assert (second.returncode, second.stderr, second.stdout) == (0, "", "regproxy: nothing to change\n")
    assert (host.tree(), host.calls()) == (after, [])
    undone = host.run(script(name), "--undo", shell=shell)
    assert (undone.returncode, undone.stderr) == (0, "")
    assert host.tree() == before
    assert len(host.calls()) == len(calls)
    again = host.run(script(name), "--undo", shell=shell)
    assert (again.returncode, host.tree(), host.calls()) == (0, before, [])


@pytest.mark.parametrize("name", SCRIPTS)
def test_undo_without_the_proxy(name: str, host: FakeHost) -> None:
    before = host.tree()
    applied(host, name)
    kept = host.read(f"/var/lib/regproxy-setup/{name}/undo.sh")
    assert host.run(kept).returncode == 0
    assert host.tree() == before


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("proxy", ["10.1.2.3:3128", "[2001:db8::1]:3128", "proxy.example"])
def test_the_proxy_as_it_was_called(name: str, proxy: str, host: FakeHost) -> None:
    assert host.run(script(name, proxy)).returncode == 0
    written = [content for _, content in host.tree().values() if content is not None]
    assert any(
        f"http://{proxy}".encode() in content or f'"{proxy}'.encode() in content for content in written
    )
    assert not any(b"proxy.example:3128" in content for content in written)


@pytest.mark.parametrize("name", SCRIPTS)
def test_another_proxy(name: str, host: FakeHost) -> None:
    """A script of another proxy takes the place of the first one's; undo goes back to before both."""
    before = host.tree()
    applied(host, name)
    assert host.run(script(name, "other.example:8080")).stdout.endswith("done\n")
    assert not any(
        b"proxy.example" in (content or b"")
        for path, (_, content) in host.tree().items()
        if not path.startswith("var/lib/regproxy-setup")
    )
    applied(host, name, "--undo")
    assert host.tree() == before


@pytest.mark.parametrize("name", SCRIPTS)
def test_arguments(name: str, host: FakeHost) -> None:
    before = host.tree()
    done = host.run(script(name), "--remove")
    assert (done.returncode, "--undo" in done.stderr, host.tree(), host.calls()) == (1, True, before, [])


@pytest.mark.parametrize("name", HTTPS_PROXY)
@pytest.mark.parametrize("family", ["debian", "rhel", "suse"])
def test_ca(name: str, family: Family, tmp_path: Path) -> None:
    host = FakeHost(tmp_path, family)
    applied(host, name)
    assert host.anchor.read_text() == PEM
    assert host.calls()[0] == f"{TRUST[family]} ".rstrip() + ("" if " " in TRUST[family] else " ")


@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_mirrors_need_no_ca(name: str, family: Family, tmp_path: Path) -> None:
    """Plain HTTP: a CA that nothing needs is not made trusted, unless somebody wants it."""
    host = FakeHost(tmp_path, family)
    before = host.tree()
    applied(host, name)
    assert not host.anchor.exists()
    applied(host, name, "--ca")
    assert host.anchor.read_text() == PEM
    applied(host, name, "--undo")
    assert host.tree() == before


@pytest.mark.parametrize("name", UNIT)
class TestDropIns:
    """HTTPS_PROXY for a service of systemd."""

    def test_lines(self, name: str, host: FakeHost) -> None:
        applied(host, name, NO_PROXY_EXTRA=".corp.example,203.0.113.0/24")
        text = host.read(f"/etc/systemd/system/{UNIT[name]}.service.d/http-proxy.conf")
        section, proxy, spared = text.splitlines()
        assert (section, proxy) == ("[Service]", 'Environment="HTTPS_PROXY=http://proxy.example:3128"')
        variable, _, hosts = spared.removeprefix('Environment="').removesuffix('"').partition("=")
        assert variable == "NO_PROXY"
        assert set(hosts.split(",")) >= {
            *("localhost", "127.0.0.0/8", "169.254.169.254", ".svc", ".cluster.local", "10.0.0.0/8"),
            *(".corp.example", "203.0.113.0/24"),
        }

    def test_restarts(self, name: str, host: FakeHost) -> None:
        applied(host, name)
        assert host.calls()[1:] == ["systemctl daemon-reload", f"systemctl try-restart {UNIT[name]}.service"]
        applied(host, name, "--undo", "--no-restart")
        assert host.calls() == ["update-ca-certificates --fresh"]
        applied(host, name, "--no-restart")
        assert host.calls() == ["update-ca-certificates "]

    def test_a_drop_in_that_was_there(self, name: str, host: FakeHost) -> None:
        path = f"/etc/systemd/system/{UNIT[name]}.service.d/http-proxy.conf"
        place = host.write(path, '[Service]\nEnvironment="HTTPS_PROXY=http://corporate:8080"\n')
        place.chmod(0o600)
        before = host.tree()
        assert "is replaced" in applied(host, name)
        assert "corporate" not in host.read(path)
        applied(host, name)
        applied(host, name, "--undo")
        assert host.tree() == before

    def test_a_drop_in_that_was_changed_since(self, name: str, host: FakeHost) -> None:
        path = f"/etc/systemd/system/{UNIT[name]}.service.d/http-proxy.conf"
        applied(host, name)
        host.write(path, "[Service]\n# by hand\n")
        done = host.run(script(name), "--undo")
        assert (done.returncode, f"{path} was changed since" in done.stderr) == (1, True)
        assert host.read(path) == "[Service]\n# by hand\n"
        assert not host.anchor.exists()
        (host.root / path.lstrip("/")).unlink()
        assert host.run(script(name), "--undo").returncode == 0

    def test_without_systemd(self, name: str, tmp_path: Path) -> None:
        host = FakeHost(tmp_path, "alpine")
        done = host.run(script(name))
        assert (done.returncode, "there is no systemd here; take /setup/" in done.stderr) == (1, True)
        assert not host.anchor.exists()


def test_two_set_ups_of_one_host(host: FakeHost) -> None:
    """The CA that both need stays until the last one is taken back."""
    before = host.tree()
    applied(host, "docker-systemd")
    applied(host, "containerd-proxy")
    applied(host, "docker-systemd", "--undo")
    assert host.anchor.read_text() == PEM
    applied(host, "containerd-proxy", "--undo")
    assert host.tree() == before


def test_no_place_for_a_ca(host: FakeHost) -> None:
    host.anchor.parent.rmdir()
    before = {path for path in host.tree() if not path.startswith("var/lib/regproxy-setup")}
    done = host.run(script("docker-systemd"))
    assert (done.returncode, "install http://proxy.example:3128/ca.crt by hand" in done.stderr) == (1, True)
    assert {path for path in host.tree() if not path.startswith("var/lib/regproxy-setup")} == before


ASKED_FIRST = {"capabilities": ["pull", "resolve"], "dial_timeout": "5s"}
V2 = '[plugins."io.containerd.grpc.v1.cri".registry]'
CONFIGS = {
    "version 1": ('disabled_plugins = ["none"]\n', ("cri",)),
    "version 2": ("version = 2\n", ("io.containerd.grpc.v1.cri",)),
    "version 3": ("version = 3\n", ("io.containerd.cri.v1.images",)),
    "an empty table": (f'version = 2\n{V2}\n\n[debug]\n  level = "info"\n', ("io.containerd.grpc.v1.cri",)),
    "no directory": (f'version = 2\n{V2}\n  config_path = ""\n[debug]\n', ("io.containerd.grpc.v1.cri",)),
    "other quotes": (
        "version = 3\n[plugins]\n  [plugins.'io.containerd.cri.v1.images'.registry]\n    config_path = ''\n",
        ("io.containerd.cri.v1.images",),
    ),
}


class TestContainerd:
    """Mirror mode."""

    @pytest.mark.parametrize("config", CONFIGS)
    def test_config_path(self, config: str, host: FakeHost) -> None:
        text, (plugin,) = CONFIGS[config]
        host.write("/etc/containerd/config.toml", text)
        before = host.tree()
        applied(host, "containerd")
        assert host.calls() == ["systemctl daemon-reload", "systemctl try-restart containerd.service"]
        written = tomllib.loads(host.read("/etc/containerd/config.toml"))
        assert written["plugins"][plugin]["registry"] == {"config_path": "/etc/containerd/certs.d"}
        assert text.replace("config_path = ", "").split()[:3] == [*text.split()][:3]
        self.is_asked_first(host)
        applied(host, "containerd", "--undo")
        assert host.tree() == before

    @staticmethod
    def is_asked_first(host: FakeHost, directory: str = "/etc/containerd/certs.d") -> None:
        hosts = tomllib.loads(host.read(f"{directory}/_default/hosts.toml"))
        assert hosts == {"host": {"http://proxy.example:3128": ASKED_FIRST}}

    @pytest.mark.parametrize("path", ["/srv/certs.d", "/srv/certs.d:/etc/docker/certs.d"])
    def test_another_directory(self, path: str, host: FakeHost) -> None:
        host.write("/etc/containerd/config.toml", f'version = 2\n{V2}\n  config_path = "{path}" # ours\n')
        before = host.tree()
        applied(host, "containerd")
        assert host.calls() == []  # it is read at each pull
        self.is_asked_first(host, "/srv/certs.d")
        applied(host, "containerd", "--undo")
        assert (host.tree(), host.calls()) == (before, [])

    @pytest.mark.parametrize("quote", ['"', "'"])
    def test_mirrors_that_exclude_it(self, quote: str, host: FakeHost) -> None:
        table = f"[plugins.{quote}io.containerd.grpc.v1.cri{quote}.registry.mirrors.{quote}docker.io{quote}]"
        host.write("/etc/containerd/config.toml", f"version = 2\n{table}\n  endpoint = []\n")
        done = host.run(script("containerd"))
        assert (done.returncode, "registry.mirrors" in done.stderr) == (1, True)
        assert not (host.root / "etc/containerd/certs.d").exists()

    def test_what_containerd_would_not_read(self, host: FakeHost) -> None:
        host.stub("containerd", "exit 1\n")
        text = 'version = 2\nplugins."io.containerd.grpc.v1.cri".registry.config_path = ""\n'
        host.write("/etc/containerd/config.toml", text)
        done = host.run(script("containerd"))
        assert (done.returncode, "add it by hand" in done.stderr) == (1, True)
        assert host.read("/etc/containerd/config.toml") == text

    def test_registries_of_their_own(self, host: FakeHost) -> None:
        host.write("/etc/containerd/certs.d/ghcr.io/hosts.toml", 'server = "https://ghcr.io"\n')
        assert "/etc/containerd/certs.d/ghcr.io/hosts.toml is left as it is" in applied(host, "containerd")

    @pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not here")
    @pytest.mark.parametrize(
        "config", ["", *(text for text, _ in CONFIGS.values() if "version = 3" not in text)]
    )
    def test_containerd_reads_it(self, config: str, host: FakeHost) -> None:
        host.link("containerd")
        if config:
            host.write("/etc/containerd/config.toml", config)
        applied(host, "containerd")
        path = host.root / "etc/containerd/config.toml"
        dump = subprocess.run(
            ["containerd", "--config", str(path), "config", "dump"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert '"/etc/containerd/certs.d"' in dump.stdout


class TestDaemonJson:
    """Keys of others stay, by whatever can edit JSON."""

    PATH = "/etc/docker/daemon.json"
    PROXIES: ClassVar = {"https-proxy": "http://proxy.example:3128", "no-proxy": ",".join(NO_PROXY)}

    def settings(self, host: FakeHost) -> dict[str, object]:
        found: dict[str, object] = json.loads(host.read(self.PATH))
        return found

    def test_alone(self, host: FakeHost) -> None:
        applied(host, "docker-daemon-json")
        assert self.settings(host) == {"proxies": self.PROXIES}
        assert host.calls()[1:] == ["systemctl daemon-reload", "systemctl try-restart docker.service"]

    @pytest.mark.parametrize("editor", ["jq", "python3"])
    @pytest.mark.parametrize(
        "text",
        [
            '{"debug":true,"proxies":{"http-proxy":"http://a:1","https-proxy":"http://b:2"},"ä":"ö"}',
            "{}\n",
            " \n",
        ],
    )
    def test_merged(self, text: str, editor: str, host: FakeHost) -> None:
        if not host.link(editor):
            pytest.skip(f"{editor} is not here")
        host.write(self.PATH, text)
        before = host.tree()
        applied(host, "docker-daemon-json")
        had = json.loads(text) if text.strip() else {}
        assert self.settings(host) == {**had, "proxies": {**had.get("proxies", {}), **self.PROXIES}}
        after = host.tree()
        applied(host, "docker-daemon-json")
        assert host.tree() == after
        applied(host, "docker-daemon-json", "--undo")
        assert host.tree() == before

    @pytest.mark.parametrize("editor", ["", "jq", "python3"])
    @pytest.mark.parametrize("text", ['{"debug": true}', "{", "[]"])
    def test_not_to_be_edited(self, text: str, editor: str, host: FakeHost) -> None:
        if editor and not host.link(editor):
            pytest.skip(f"{editor} is not here")
        if editor and text[-1] == "}":
            pytest.skip("can be edited")
        host.write(self.PATH, text)
        assert host.run(script("docker-daemon-json")).returncode == 1
        assert (host.read(self.PATH), host.anchor.exists()) == (text, False)

    @pytest.mark.skipif(shutil.which("dockerd") is None, reason="dockerd is not here")
    def test_dockerd_knows_the_key_or_is_too_old(self, host: FakeHost) -> None:
        """dockerd has --validate from 23 on, and "proxies" with it."""
        applied(host, "docker-daemon-json")
        path = host.root / self.PATH.lstrip("/")
        done = subprocess.run(
            ["dockerd", "--validate", f"--config-file={path}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "configuration OK" in done.stderr or "unknown flag: --validate" in done.stderr


class TestKind:
    """The script of containerd is run in each node, by `docker exec`."""

    @pytest.fixture
    def nodes(self, tmp_path: Path) -> FakeHost:
        """A host whose only "container" is a node with a file system of its own."""
        node, host = FakeHost(tmp_path / "node"), FakeHost(tmp_path / "host")
        host.stub("kind", 'echo "$4-control-plane"\n')
        host.stub("docker", f'shift 3\nREGPROXY_SETUP_ROOT="{node.root}" exec "$@"\n')
        self.node = node
        return host

    def test_twice_and_back(self, nodes: FakeHost) -> None:
        before, untouched = self.node.tree(), nodes.tree()
        for _ in range(2):
            done = nodes.run(script("kind"), "test")
            assert (done.returncode, done.stderr) == (0, "")
        TestContainerd.is_asked_first(self.node)
        assert nodes.calls()[:2] == [
            "kind get nodes --name test",
            "docker exec -i test-control-plane sh -s --",
        ]
        assert nodes.run(script("kind"), "--undo", "test").returncode == 0
        assert (self.node.tree(), nodes.tree()) == (before, untouched)

    @pytest.mark.parametrize("proxy", ["localhost:3128", "127.0.0.1:3128", "[::1]:3128", "localhost"])
    def test_the_node_itself(self, proxy: str, nodes: FakeHost) -> None:
        done = nodes.run(script("kind", proxy))
        assert (done.returncode, "the node itself" in done.stderr, nodes.calls()) == (1, True, [])

    def test_arguments(self, nodes: FakeHost) -> None:
        assert nodes.run(script("kind"), "--remove").returncode == 1


@pytest.mark.parametrize("name", ["k3s", "rke2"])
class TestRegistriesYaml:
    """k3s and RKE2."""

    def test_mirrors(self, name: str, host: FakeHost) -> None:
        applied(host, name)
        mirrors = yaml.safe_load(host.read(f"/etc/rancher/{name}/registries.yaml"))["mirrors"]
        assert mirrors == {registry: {"endpoint": ["http://proxy.example:3128"]} for registry in REGISTRIES}
        services = ["k3s", "k3s-agent"] if name == "k3s" else ["rke2-server", "rke2-agent"]
        assert [call.split()[-1] for call in host.calls()[1::2]] == [
            f"{service}.service" for service in services
        ]

    def test_what_was_there_stays(self, name: str, host: FakeHost) -> None:
        text = 'configs:\n  "reg.example":\n    auth: {username: u, password: p}\n'
        host.write(f"/etc/rancher/{name}/registries.yaml", text)
        done = host.run(script(name))
        assert (done.returncode, "add the mirrors" in done.stderr) == (1, True)
        assert host.read(f"/etc/rancher/{name}/registries.yaml") == text


@pytest.mark.parametrize("name", ["podman", "crio"])
def test_registries_conf(name: str, host: FakeHost) -> None:
    """A registry with a port is left out, in words: a port in a path is "invalid reference format"."""
    said = applied(host, name)
    assert [line for line in said.splitlines() if "reg.example:5000" in line and "HTTPS_PROXY=" in line]
    text = host.read("/etc/containers/registries.conf.d/050-regproxy.conf")
    found = tomllib.loads(text)["registry"]
    named = ["docker.io", "ghcr.io"]
    assert [entry["location"] for entry in found] == named
    assert [entry["mirror"] for entry in found] == [
        [{"location": f"proxy.example:3128/{registry}", "insecure": True}] for registry in named
    ]
    assert "Left out: reg.example:5000." in text
    assert host.calls()[1:] == (["systemctl try-restart crio.service"] if name == "crio" else [])


def test_podman_and_crio_share_a_file(host: FakeHost) -> None:
    before = host.tree()
    applied(host, "podman")
    applied(host, "crio")
    applied(host, "podman", "--undo")
    assert "proxy.example" in host.read("/etc/containers/registries.conf.d/050-regproxy.conf")
    applied(host, "crio", "--undo")
    assert host.tree() == before


def test_docker_certs_d(host: FakeHost) -> None:
    host.write("/etc/docker/certs.d/ghcr.io/ca.crt", PEM)
    assert "/etc/docker/certs.d/ghcr.io is left as it is" in applied(host, "docker-certs-d")
    TestContainerd.is_asked_first(host, "/etc/docker/certs.d")
    assert host.calls() == []  # it is read at each pull

"""`regproxy doctor` and `regproxy setup` against a real proxy, on good hosts and bad ones."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from regproxy.cli.main import app
from regproxy.onboarding.clients import CLIENTS
from tests.support.client import Client
from tests.support.origin import Answer, Origin
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.trust import Trust

Doctor = Callable[..., Result]


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        origin.on("/v2/", Answer(b"{}"))
        yield origin


@pytest.fixture(scope="module")
def proxy(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("proxy")
    registries, resolve = (origin.authority, "gone.test:443"), {**origin.resolve, "gone.test": "127.0.0.9"}
    env = {"REGPROXY_ALLOW_TARGETS": f"{origin.authority} gone.test other.test:{origin.port}"}
    env["REGPROXY_RESOLVE"] = " ".join(
        f"{name}={address}" for name, address in {**resolve, "other.test": origin.address[0]}.items()
    )
    with Proxy(directory, env, registries=registries, ca=trust.path) as proxy:
        yield proxy


@pytest.fixture
def host(tmp_path: Path, proxy: Proxy) -> Path:
    """A host that is set up well: dockerd by HTTPS_PROXY, containerd by mirror mode, the CA in the store."""
    hosts = f'[host."{proxy.url}"]\n  capabilities = ["pull", "resolve"]\n'
    for name, text in {
        "etc/ssl/certs/ca-certificates.crt": proxy.ca_pem.decode(),
        "etc/containerd/certs.d/_default/hosts.toml": hosts,
        "proc/10/comm": "dockerd\n",
        "proc/10/environ": f"HTTPS_PROXY={proxy.url}\0NO_PROXY=localhost\0",
        "proc/11/comm": "containerd\n",
        "proc/11/environ": "PATH=/bin\0",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def doctor(host: Path, proxy: Proxy, origin: Origin) -> Doctor:
    def run(*arguments: str, url: str = proxy.url, registry: str = origin.authority) -> Result:
        words = ["doctor", "--root", str(host), "--registry", registry, *(["--proxy", url] if url else [])]
        return CliRunner().invoke(app, [*words, *arguments], env={"HTTPS_PROXY": None, "https_proxy": None})

    return run


def wrong(result: Result) -> list[str]:
    """Return the lines that are not ok; the exit code has to go with them."""
    lines = [line for line in result.output.splitlines() if not line.startswith("ok ")]
    assert result.exit_code == (1 if any(line.startswith("error ") for line in lines) else 0), result.output
    return lines


def test_a_good_host(doctor: Doctor, proxy: Proxy) -> None:
    result = doctor()
    assert (result.exit_code, wrong(result)) == (0, [])
    subjects = {line.split()[1] for line in result.output.splitlines()}
    assert subjects == {"proxy:", "clock:", "interception:", "cache:", "CA:", "variables:", "mirrors:"}
    assert doctor(url="").output == result.output  # dockerd's own


def test_json(doctor: Doctor, host: Path) -> None:
    (host / "etc/ssl/certs/ca-certificates.crt").unlink()
    result = doctor("--json")
    (bad,) = (finding for finding in json.loads(result.output) if finding["level"] != "ok")
    assert (result.exit_code, bad["subject"], set(bad)) == (1, "CA", {"level", "subject", "what", "fix"})


def test_nobody_is_there(doctor: Doctor) -> None:
    address = free_address()
    lines = wrong(doctor(url=f"http://{address[0]}:{address[1]}"))
    assert "Connection refused" in lines[0]
    assert "firewalls" in lines[0]


def test_something_else_is_there(doctor: Doctor, proxy: Proxy) -> None:
    lines = wrong(doctor(url=f"http://{proxy.admin_address[0]}:{proxy.admin_port}"))
    assert "something else than regproxy (status 303)" in lines[0]  # the login of the admin port's page


def test_what_never_answers(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regproxy.doctor.proxy_requests.TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = wrong(doctor(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert "no answer in time" in lines[0]


def test_not_intercepted(doctor: Doctor, origin: Origin) -> None:
    line, mirror = wrong(doctor(registry=f"other.test:{origin.port}"))
    assert f"the proxy is no mirror of other.test:{origin.port} (status 403)" in mirror
    assert "is not intercepted: its certificate is by CN=test CA; name it in REGISTRIES" in line


def test_refused(doctor: Doctor) -> None:
    line, _ = wrong(doctor(registry="other.test:1"))
    assert "the proxy refuses to connect to other.test:1 (Tunnel connection failed: 403" in line
    assert "port 1 may not be reached through this proxy" in line  # as the proxy has said it


def test_a_registry_that_the_proxy_does_not_reach(doctor: Doctor) -> None:
    (line,) = wrong(doctor(registry="gone.test"))
    assert line.startswith(
        "warning  cache: the proxy does not reach gone.test:443: only what it holds is served"
    )


def test_a_ca_that_is_not_trusted(doctor: Doctor, host: Path) -> None:
    (host / "etc/ssl/certs/ca-certificates.crt").write_text("")
    (line,) = wrong(doctor())
    assert line.startswith("error    CA: the system does not trust it; run one of the proxy's /setup scripts")


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_the_environment_of_the_doctor_itself(
    variable: str, host: Path, proxy: Proxy, origin: Origin
) -> None:
    """skopeo of that shell goes through the proxy, and would fail with x509."""
    (host / "etc/ssl/certs/ca-certificates.crt").write_text("")
    (host / "proc/10/comm").unlink()
    (host / "etc/own.pem").write_bytes(proxy.ca_pem)
    words = ["doctor", "--root", str(host), "--registry", origin.authority]
    env = {"HTTPS_PROXY": None, "https_proxy": None, "SSL_CERT_FILE": None, variable: proxy.url}
    errors = [line for line in wrong(CliRunner().invoke(app, words, env=env)) if line.startswith("error")]
    assert ["programs of this environment have the proxy as HTTPS_PROXY" in line for line in errors] == [True]
    result = CliRunner().invoke(app, words, env={**env, "SSL_CERT_FILE": "/etc/own.pem"})
    assert result.exit_code == 0, result.output


def test_another_proxy(doctor: Doctor, host: Path) -> None:
    (host / "proc/10/environ").write_text("HTTPS_PROXY=http://u:s3cret@other.example:1\0")
    result = doctor()
    (line,) = wrong(result)
    assert "dockerd (pid 10) has another proxy, http://***@other.example:1; set HTTPS_PROXY=" in line
    assert "s3cret" not in result.output


def test_a_mirror_beside(doctor: Doctor, host: Path) -> None:
    (host / "etc/docker").mkdir()
    (host / "etc/docker/daemon.json").write_text('{"registry-mirrors": ["https://mirror.example"]}')
    (line,) = wrong(doctor())
    assert line.startswith(
        "warning  mirrors: dockerd asks https://mirror.example for Docker Hub (/etc/docker/daemon.json)"
    )


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@proxy.example:3128", "ftp://proxy.example", "http://a b", ""]
)
def test_usage(url: str, doctor: Doctor, host: Path) -> None:
    (host / "proc/10/environ").write_text("")
    result = doctor(url=url)
    assert result.exit_code == 2
    assert "--proxy" in result.output
    assert "s3cret" not in result.output


class TestSetup:
    """`regproxy setup` prints what the proxy hands out."""

    @staticmethod
    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["setup", *words], env={"HTTPS_PROXY": None, "https_proxy": None})

    @pytest.mark.parametrize("client", CLIENTS)
    def test_the_same(self, client: str, proxy: Proxy) -> None:
        result = self.run(client, "--proxy", proxy.url)
        assert result.exit_code == 0
        with Client.connect(proxy.address) as plain:
            host = f"{proxy.address[0]}:{proxy.port}"
            assert plain.get(f"/setup/{client}", {"Host": host}).body.decode() == result.output

    def test_list(self) -> None:
        result = self.run()
        assert (result.exit_code, [line.split()[0] for line in result.output.splitlines()]) == (
            0,
            list(CLIENTS),
        )

    def test_list_for_programs(self) -> None:
        told = json.loads(self.run("--proxy", "http://cache:3128", "--json").output)["clients"]
        assert [each["name"] for each in told] == list(CLIENTS)
        (containerd,) = (each for each in told if each["name"] == "containerd")
        assert (containerd["kind"], containerd["mirror"], containerd["command"]) == (
            *("sh", True),
            "curl -fsS http://cache:3128/setup/containerd | sudo sh",
        )

    def test_one_for_programs(self, proxy: Proxy) -> None:
        told = json.loads(self.run("containerd", "--proxy", proxy.url, "--json").output)
        assert told["text"] == self.run("containerd", "--proxy", proxy.url).output
        assert told["url"] == f"{proxy.url}/setup/containerd"
        assert told["undo"].endswith("--undo")

    def test_unknown(self) -> None:
        result = self.run("docker")
        assert (result.exit_code, "docker-systemd" in result.output) == (2, True)

    def test_nobody_is_there(self) -> None:
        address = free_address()
        result = self.run("containerd", "--proxy", f"{address[0]}:{address[1]}")
        assert (result.exit_code, "does not answer: Connection refused" in result.output) == (1, True)

    def test_something_else_is_there(self, proxy: Proxy) -> None:
        result = self.run("containerd", "--proxy", f"{proxy.admin_address[0]}:{proxy.admin_port}")
        assert (result.exit_code, "has no /setup/containerd (status 404)" in result.output) == (1, True)

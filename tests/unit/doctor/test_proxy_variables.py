"""Variables of running daemons, from a /proc of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from regproxy.doctor.findings import Finding
from regproxy.doctor.host_files import HostFiles
from regproxy.doctor.proxy_variables import examine, used
from regproxy.onboarding.proxy_address import ProxyAddress

ADDRESS = ProxyAddress("proxy.example", 3128)
HUB = ("registry-1.docker.io", 443)
SECRET = "s3cr/et@#?"


def runs(root: Path, name: str, **environ: str) -> HostFiles:
    """Return a host on which a process runs."""
    folder = root / "proc/77"
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "environ").write_bytes(b"".join(f"{key}={value}\0".encode() for key, value in environ.items()))
    return HostFiles(root)


def finding(host: HostFiles, *by_mirror: str) -> Finding:
    (found,) = examine(host, ADDRESS, HUB, set(by_mirror))
    return found


GOOD = [
    "http://proxy.example:3128",
    "http://proxy.example:3128/",
    "proxy.example:3128",
    "http://Proxy.Example:3128",
]
SPARING = ["*", "docker.io", ".docker.io", "localhost,registry-1.docker.io", "registry-1.docker.io:443"]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("url", GOOD)
def test_good(url: str, variable: str, tmp_path: Path) -> None:
    host = runs(tmp_path, "dockerd", **{variable: url, "NO_PROXY": "localhost,.svc,10.0.0.0/8"})
    assert finding(host).level == "ok"
    assert used(host) == [url]


@pytest.mark.parametrize("spared", SPARING)
def test_no_proxy(spared: str, tmp_path: Path) -> None:
    found = finding(runs(tmp_path, "containerd", HTTPS_PROXY=GOOD[0], NO_PROXY=spared))
    assert (found.level, "NO_PROXY" in found.what) == ("error", True)


@pytest.mark.parametrize(
    "url",
    [f"http://user:{SECRET}@other.example:8080/", f"user:{SECRET}@other.example:8080", "other.example:8080"],
)
def test_another_proxy(url: str, tmp_path: Path) -> None:
    found = finding(runs(tmp_path, "dockerd", HTTPS_PROXY=url))
    assert (found.level, "other.example:8080" in found.what) == ("error", True)
    assert not [part for part in (SECRET, "s3cr", "et@", "user") if part in found.line()]


def test_a_login_for_the_right_one(tmp_path: Path) -> None:
    found = finding(runs(tmp_path, "dockerd", HTTPS_PROXY=f"http://u:{SECRET}@proxy.example:3128"))
    assert "s3cr" not in found.line()


def test_none(tmp_path: Path) -> None:
    host = runs(tmp_path, "dockerd", PATH="/bin")
    assert finding(host).level == "error"
    assert "restart" not in finding(host).fix
    assert finding(host, "docker").level == "ok"
    assert finding(host, "containerd").level == "error"


def test_started_too_early(tmp_path: Path) -> None:
    host = runs(tmp_path, "dockerd")
    path = tmp_path / "etc/systemd/system/docker.service.d/http-proxy.conf"
    path.parent.mkdir(parents=True)
    path.write_text('[Service]\nEnvironment="HTTPS_PROXY=http://proxy.example:3128"\n')
    found = finding(host)
    assert (found.level, found.fix) == ("error", "systemctl daemon-reload && systemctl restart docker")


def test_daemon_json_outranks_variables(tmp_path: Path) -> None:
    host = runs(tmp_path, "dockerd", HTTPS_PROXY="http://other.example:1")
    path = tmp_path / "etc/docker/daemon.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"proxies": {"https-proxy": "http://proxy.example:3128", "no-proxy": "localhost"}}')
    assert finding(host).level == "ok"
    path.write_text("{")
    assert finding(host).level == "error"


def test_unreadable(tmp_path: Path) -> None:
    host = runs(tmp_path, "containerd")
    (tmp_path / "proc/77/environ").unlink()
    found = finding(host)
    assert (found.level, found.fix) == ("warning", "run regproxy doctor as root")


def test_nothing_runs(tmp_path: Path) -> None:
    host = runs(tmp_path, "bash", HTTPS_PROXY="http://other.example:1")
    (tmp_path / "proc/1").mkdir()  # ended while it was looked at
    assert (finding(host).level, used(host)) == ("ok", [])

"""The systemd unit: systemd reads it, its exposure stays low, and the proxy works under its restrictions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.config.settings import SETTINGS
from regproxy.config.values.numbers import parse_time
from tests.support import ROOT
from tests.support.images import MANIFEST, make_image
from tests.support.like_a_service import USER, values
from tests.support.origin import Origin
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

DEPLOY = ROOT / "deploy" / "systemd"
UNIT = DEPLOY / "regproxy.service"
TEXT = UNIT.read_text()
# Tenths, a little above what docs/systemd.md says of systemd 252: other versions may count otherwise.
EXPOSURE = 15
SYSTEM_PYTHON = "/usr/bin/python3"
IMAGE = make_image(seed=91)


def lacking() -> str:
    """Why the restrictions can't be tried here; "": they can."""
    if os.getuid() != 0:
        return "only root can make the namespaces of a service"
    if subprocess.run([SYSTEM_PYTHON, "-c", "import seccomp"], capture_output=True).returncode:
        return "python3-seccomp is not installed"
    reads = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "test", "-r"]
    if subprocess.run([*reads, str(ROOT / "setup.py")]).returncode:
        return f"another user can't read {ROOT}"
    return ""


WHY = lacking()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the service's user can reach and write."""
    found = Path(tempfile.mkdtemp(prefix="service-"))
    os.chown(found, USER, USER)
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


@pytest.mark.parametrize("drop_in", [False, True], ids=["alone", "with the drop-in"])
def test_systemd_understands_it(tmp_path: Path, drop_in: bool) -> None:
    unit = tmp_path / UNIT.name
    # The program need not be installed here.
    unit.write_text(re.sub(r"/usr/bin/(regproxy|kill)\b", "/bin/true", TEXT))
    if drop_in:
        (tmp_path / f"{UNIT.name}.d").mkdir()
        shutil.copy(DEPLOY / "ports-below-1024.conf", tmp_path / f"{UNIT.name}.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


def test_a_mistake_would_be_seen(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    wrong = TEXT.replace("ProtectSystem=strict", "ProtectSistem=strict")
    unit.write_text(re.sub(r"/usr/bin/(regproxy|kill)\b", "/bin/true", wrong))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    assert "ProtectSistem" in done.stderr


def test_its_exposure() -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT)]
    done = subprocess.run([*command, "--no-pager"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_it_has_time_to_drain() -> None:
    [drain] = re.findall(r"REGPROXY_DRAIN_TIMEOUT=(\S+)", TEXT)
    assert int(values(TEXT, "TimeoutStopSec")[0]) == parse_time(drain) + 3


def test_its_settings_exist() -> None:
    known = {setting.name for setting in SETTINGS} | {"REGPROXY_CONFIG"}
    in_file = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (DEPLOY / "regproxy.env").read_text(), re.M)
    assert len(in_file) > 6
    assert {*in_file, *re.findall(r"\b(REGPROXY_\w+)=", TEXT)} <= known


@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_it_works_under_these_restrictions(place: Path, trust: Trust) -> None:
    """Pulls, a killed worker, a reload, with the unit's seccomp filter; nothing is refused."""
    assert values(TEXT, "MemoryDenyWriteExecute") == ["yes"]
    ca = place / "upstream.pem"
    ca.write_bytes(trust.path.read_bytes())
    ca.chmod(0o644)
    within = [SYSTEM_PYTHON, str(ROOT / "tests/support/like_a_service.py"), str(UNIT), str(place), "--"]
    env = {"REGPROXY_WORKERS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    with Origin(trust, "reg.test") as origin:
        origin.publish("app", IMAGE, "1")
        with Proxy(
            *(place, env),
            registries=(origin.authority,),
            resolve=origin.resolve,
            ca=ca,
            within=within,
        ) as proxy:
            pull(proxy, origin)
            proxy.wait_kept(*IMAGE.blobs)
            status = Path(f"/proc/{proxy.daemon.pid}/status").read_text()
            assert re.search(r"^Seccomp:\s*2$", status, re.M)
            assert re.search(rf"^Uid:\s*{USER}\s", status, re.M)
            before = set(proxy.workers())
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: len(set(proxy.workers()) - before) == 1, "another worker is there")
            pull(proxy, origin)
            former = set(proxy.workers())
            proxy.signal(signal.SIGHUP)
            wait_until(lambda: len(now := set(proxy.workers())) == 2 and not now & former, "both are new")
            pull(proxy, origin)
            log = proxy.log()
            assert "Operation not permitted" not in log
            assert [line for line in log.splitlines() if " ERROR " in line and "SIGKILL" not in line] == []


@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_logins_are_checked_under_these_restrictions(place: Path) -> None:
    """bcrypt, argon2, the keys of signatures: libraries in C, which might want memory to run code in."""
    within = [SYSTEM_PYTHON, str(ROOT / "tests/support/like_a_service.py"), str(UNIT), str(place), "--"]
    script = (
        "import argon2, bcrypt, nacl.signing, re2, json\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "h = bcrypt.hashpw(b'p', bcrypt.gensalt(4)); a = argon2.PasswordHasher().hash('p')\n"
        "ok = [bcrypt.checkpw(b'p', h), argon2.PasswordHasher().verify(a, 'p')]\n"
        "ok.append(bool(re2.match('a+', 'aa')))\n"
        "ec.generate_private_key(ec.SECP256R1()); nacl.signing.SigningKey.generate().sign(b'm')\n"
        "import mmap\n"
        "try:\n"
        "    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except PermissionError:\n"
        "    ok.append('refused')\n"
        "print(json.dumps(ok))\n"
    )

    done = subprocess.run([*within, sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True, True, "refused"]


def pull(proxy: Proxy, origin: Origin) -> None:
    with proxy.client(origin.authority) as client:
        assert client.get("/v2/app/manifests/1", [("Accept", MANIFEST)]).digest == IMAGE.digest
        for digest in IMAGE.blobs:
            assert client.get(f"/v2/app/blobs/{digest}").digest == digest


class TestCommands:
    """What /usr/bin/regproxy of the Debian package runs the program with."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Path:
        """The service's directories and settings."""
        for name in ("cache", "etc", "lib"):
            (tmp_path / name).mkdir()
        (tmp_path / "etc/regproxy.env").write_text(
            (DEPLOY / "regproxy.env").read_text()
            + "REGISTRIES=ghcr.io quay.io\nCACHE_MAX_SIZE='1g'\n  # HOME=/x\nREGPROXY_LISTEN = x\nTZ=$(id)"
        )
        text = (ROOT / "deploy/deb/regproxy").read_text()
        for place, ours in (
            ("/var/cache/regproxy", "cache"),
            ("/etc/regproxy/", "etc/"),
            ("/usr/lib/", "lib/"),
        ):
            assert place in text
            text = text.replace(place, f"{tmp_path}/{ours}")
        (tmp_path / "lib/regproxy/bin").mkdir(parents=True)
        (tmp_path / "lib/regproxy/bin/regproxy").symlink_to("/usr/bin/printenv")
        (tmp_path / "regproxy").write_text(text)
        return tmp_path

    def told(self, service: Path, name: str, **env: str) -> str:
        """Return a variable as the program has it."""
        command = ["sh", str(service / "regproxy"), name]
        env |= {"PATH": os.environ["PATH"]}
        return subprocess.run(command, env=env, capture_output=True, text=True).stdout.rstrip("\n")

    def test_the_settings_of_the_service(self, service: Path) -> None:
        want = {
            "REGPROXY_CACHE_DIR": str(service / "cache"),
            "REGPROXY_CA_DIR": "/var/lib/regproxy/ca",
            "REGPROXY_ADMIN_LISTEN": "127.0.0.1:3129",
            "REGISTRIES": "ghcr.io quay.io",
            "CACHE_MAX_SIZE": "1g",
            "TZ": "$(id)",
            "HOME": "",
            "REGPROXY_LISTEN": "",
        }
        assert {name: self.told(service, name) for name in want} == want

    def test_what_the_environment_has_stays(self, service: Path) -> None:
        env = {"REGPROXY_CACHE_DIR": "/mine", "REGISTRIES": ""}
        assert {name: self.told(service, name, **env) for name in env} == env

    def test_others_have_their_own(self, service: Path) -> None:
        (service / "cache").rmdir()
        assert self.told(service, "REGPROXY_CACHE_DIR") == self.told(service, "REGISTRIES") == ""

"""The Debian package in a root of Debian 12: installed, run, upgraded, removed, purged: `make test-deb`.

Wants root and debootstrap, and a machine of that release, for which `make deb` has built it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.support import ROOT, debian_root
from tests.support.client import open_tunnel
from tests.support.images import MANIFEST, make_image
from tests.support.origin import Origin
from tests.support.processes import Daemon, accepts, free_address, wait_until
from tests.support.trust import Trust

RELEASE: Final = "bookworm"
PLACE: Final = ROOT / "build" / "deb" / RELEASE
IMAGE: Final = make_image(seed=93)
CA: Final = Path("var/lib/regproxy/ca")


def inside(root: Path, *command: str, check: bool = True) -> str:
    """Run a command there; return what it printed. Raises CalledProcessError."""
    env = [
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "DEBIAN_FRONTEND=noninteractive",
    ]
    words = debian_root.enter(root, [*env, *command])
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()
    return done.stdout


def serve_one_pull(root: Path, directory: Path) -> None:
    """Run it as the package's user, on the package's directories, and pull an image through it."""
    trust = Trust(directory)
    (root / "tmp/upstream.pem").write_bytes(trust.path.read_bytes())
    address = free_address()
    admin = free_address(address[0])
    with Origin(trust, "reg.test") as origin:
        origin.publish("app", IMAGE, "1")
        settings = {
            "PATH": "/usr/bin:/bin",
            "REGPROXY_CACHE_DIR": "/var/cache/regproxy",
            "REGPROXY_CA_DIR": f"/{CA}",
            "REGPROXY_LISTEN": f"{address[0]}:{address[1]}",
            "REGPROXY_ADMIN_LISTEN": f"{admin[0]}:{admin[1]}",
            "REGPROXY_WORKERS": "1",
            "REGISTRIES": origin.authority,
            "REGPROXY_RESOLVE": " ".join(f"{name}={to}" for name, to in origin.resolve.items()),
            "REGPROXY_ALLOW_TARGETS": " ".join(origin.resolve),
            "REGPROXY_UPSTREAM_CA_FILE": "/tmp/upstream.pem",
        }
        user = ["setpriv", "--reuid=regproxy", "--regid=regproxy", "--clear-groups", "--no-new-privs"]
        pairs = [f"{name}={value}" for name, value in settings.items()]
        command = debian_root.enter(root, [*user, "env", "-i", *pairs, "regproxy", "serve"])
        daemon = Daemon("regproxy", command, directory=directory)
        try:
            daemon.wait_ready(lambda: accepts(admin) and accepts(address), timeout=60)
            pem = wait_until((root / CA / "ca.crt").read_bytes, "the CA is there")
            with open_tunnel(address, origin.authority, pem) as client:
                accept = [("Accept", MANIFEST)]
                assert client.get("/v2/app/manifests/1", accept).digest == IMAGE.digest
                for digest in IMAGE.blobs:
                    assert client.get(f"/v2/app/blobs/{digest}").digest == digest
        finally:
            code = daemon.stop()
        assert code == 0, daemon.log_tail()


def try_package(root: Path, package: Path, directory: Path) -> None:
    """Take the package through its life. Raises CalledProcessError or AssertionError."""
    copy = root / "tmp" / package.name
    copy.write_bytes(package.read_bytes())
    install = ("apt-get", "-qy", "install", "--no-install-recommends", "--reinstall", f"/tmp/{package.name}")
    inside(root, *install)
    print("installed:", inside(root, "regproxy", "--version").strip())
    serve_one_pull(root, directory)
    key = (root / CA / "ca.key").read_bytes()
    print("served a pull")
    settings = root / "etc/regproxy/regproxy.env"
    settings.write_text(settings.read_text() + "CACHE_MAX_SIZE=1g\n")
    inside(root, *install)
    assert "CACHE_MAX_SIZE=1g" in settings.read_text()
    assert (root / CA / "ca.key").read_bytes() == key
    print("upgraded: the settings and the CA are what they were")
    status = inside(root, "regproxy", "cache", "status")
    assert "/var/cache/regproxy" in status and "1.0 GiB" in status, status
    assert f"/{CA}/ca.key" in inside(root, "regproxy", "ca", "show")
    print("commands of root are about the service's directories")
    inside(root, "apt-get", "-qy", "remove", "regproxy")
    assert not (root / "usr/lib/regproxy").exists()
    assert (root / "var/cache/regproxy/blobs").exists()
    assert settings.exists()
    other = root / "var/cache/regproxy/not-ours"
    other.touch()
    said = inside(root, "apt-get", "-qy", "purge", "regproxy")
    assert "is kept in /var/lib/regproxy/ca" in said
    assert (root / CA / "ca.key").read_bytes() == key
    left = list((root / "var/cache/regproxy").iterdir())
    assert left == [other], left
    assert not settings.exists()
    print("removed and purged: the CA is kept, so is what the proxy has not made")
    other.unlink()
    for path in (root / CA).iterdir():
        path.unlink()


def main() -> int:
    """Return 0; 2: it can't be tried here."""
    if lacking := debian_root.lacking():
        print(f"The package: {lacking}", file=sys.stderr)
        return 2
    packages = sorted((ROOT / "dist").glob("regproxy_*+deb12_*.deb"), key=lambda path: path.stat().st_mtime)
    if not packages:
        print("The package: dist has none for Debian 12: make deb, on Debian 12", file=sys.stderr)
        return 2
    root = debian_root.make(PLACE, RELEASE, ("ca-certificates",))
    debian_root.share_network(root)
    inside(root, "apt-get", "-q", "update")
    with tempfile.TemporaryDirectory() as directory:
        try_package(root, packages[-1], Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The CA while the proxy runs: lists that grow, rotations, files that others renew; over all its workers."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import ROOT
from tests.support.admin_api import AdminApi
from tests.support.authorities import drp_ca, openssl, subordinate_ca
from tests.support.client import Client, open_tunnel
from tests.support.process_tree import Start, stopped
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane

HUP = signal.SIGHUP
OLD = "old.test:443"


def command(proxy: Proxy, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `regproxy ca WORDS` on this proxy's CA."""
    settings = {"REGPROXY_CA_DIR": str(proxy.ca_dir), "HOME": str(proxy.directory), **env}
    return subprocess.run(
        [sys.executable, "-m", "regproxy", "ca", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def done(proxy: Proxy, *words: str, **env: str) -> str:
    ended = command(proxy, *words, **env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def handed_out(proxy: Proxy) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{proxy.url}/ca.crt", timeout=10) as reply:
        body: bytes = reply.read()
        return body


def parts(bundle: bytes) -> list[bytes]:
    begin = b"-----BEGIN CERTIFICATE-----"
    return [begin + rest for rest in bundle.split(begin)[1:]]


def trusts(proxy: Proxy, ca: bytes, target: str) -> bool:
    """Tell whether a client that trusts `ca` takes what the proxy shows for a host."""
    try:
        open_tunnel(proxy.address, target, ca).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


def issuer(proxy: Proxy, target: str) -> str:
    """Return who has signed the leaf of a host."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with open_tunnel(proxy.address, target, None, context=context) as client:
        der = client.tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string()


def in_use(proxy: Proxy, times: int) -> None:
    text = "the new configuration is in use"
    wait_until(lambda: proxy.log().count(text) == times, f"{text}\n{proxy.log()}")


def read_again(proxy: Proxy, times: int) -> None:
    """Wait until that many readings of the CA's files were logged, over all workers."""
    wait_until(lambda: proxy.log().count(" was read again") >= times, f"{times} readings\n{proxy.log()}")


def test_a_registry_that_is_added(lane: Lane, start: Start, tmp_path: Path, stack: ExitStack) -> None:
    """It is pulled from by the new CA, at once; what was there goes on with the one that clients have."""
    toml = tmp_path / "regproxy.toml"
    toml.write_text(f'registries = ["{OLD}"]\n')
    proxy = start(REGISTRIES=None, REGPROXY_WORKERS="2", REGPROXY_CONFIG=str(toml))
    proxy.workers(2)
    (old,) = parts(handed_out(proxy))
    assert trusts(proxy, old, OLD)
    assert not proxy.ca_path.with_suffix(".next").exists()
    toml.write_text(f'registries = ["{OLD}", "{lane.origin.authority}"]\n')
    proxy.signal(HUP)
    in_use(proxy, 1)
    wait_until(lambda: len(proxy.workers()) == 2, "the old workers have ended")
    said = [line for line in proxy.log().splitlines() if "made another CA" in line]
    assert len(said) == 1 and "for reg.test: clients have to trust it" in said[0]

    new, former = parts(handed_out(proxy))
    assert former == old == proxy.ca_pem
    for ca in (old, new, new + old):
        for _ in range(4):  # workers take turns
            assert trusts(proxy, ca, OLD)
            assert trusts(proxy, ca, lane.origin.authority) is (ca is not old)
    client = stack.enter_context(open_tunnel(proxy.address, lane.origin.authority, new))
    assert client.get(SMALL_PATH).body == SMALL
    assert issuer(proxy, OLD) != issuer(proxy, lane.origin.authority)

    # Whoever runs a client's set-up has both, each in a file of its own.
    script = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with script.open(f"{proxy.url}/setup/docker-systemd", timeout=10) as reply:
        text = reply.read()
    assert text.count(b"-----BEGIN CERTIFICATE-----\n") == 2

    # The same over a restart, and a reload.
    assert stopped(proxy) == 0
    again = stack.enter_context(
        Proxy(
            proxy.directory,
            {"REGISTRIES": None, "REGPROXY_CONFIG": str(toml)},
            resolve=lane.origin.resolve,
        )
    )
    assert parts(handed_out(again)) == [new, old]
    assert trusts(again, old, OLD)


def test_a_rotation_by_command(lane: Lane, start: Start) -> None:
    proxy = start(REGPROXY_WORKERS="2")
    proxy.workers(2)
    target = lane.origin.authority
    old, before = handed_out(proxy), proxy.metric("regproxy_ca_not_after_timestamp_seconds")
    strange = command(proxy, "rotate", REGISTRIES="other.test")
    assert (strange.returncode, "would not sign" in strange.stderr) == (2, True)
    done(proxy, "rotate", "--drop-names", REGISTRIES=target)
    read_again(proxy, 2)
    new, former = parts(handed_out(proxy))
    assert former == old
    assert [trusts(proxy, ca, target) for ca in (old, new, new + old)] == [True] * 3
    name = issuer(proxy, target)
    assert command(proxy, "rotate", REGISTRIES=target).returncode == 2
    assert done(proxy, "export").encode() == new + old
    assert done(proxy, "export", "--newest").encode() == new

    shown = json.loads(done(proxy, "show", "--json", REGISTRIES=target))
    assert [ca["role"] for ca in shown["cas"]] == ["signs", "signs what the former may not"]
    assert "reg.test" in shown["cas"][0]["names"]
    assert (shown["lacking"], shown["warnings"]) == ([], [])
    lacking = command(proxy, "show", REGISTRIES="other.test")
    assert (lacking.returncode, "may not sign other.test" in lacking.stderr) == (1, True)

    done(proxy, "rotate", "--finish", "--drop-names", REGISTRIES=target)
    read_again(proxy, 4)
    assert handed_out(proxy) == new
    for _ in range(4):
        assert issuer(proxy, target) != name
    assert [trusts(proxy, ca, target) for ca in (old, new)] == [True, True]
    assert proxy.metric("regproxy_ca_not_after_timestamp_seconds") >= before > time.time()
    with open_tunnel(proxy.address, target, new) as client:
        assert client.get(SMALL_PATH).body == SMALL
    assert stopped(proxy) == 0


def by_rename(target: Path, text: bytes) -> None:
    draft = target.with_suffix(".draft")
    draft.write_bytes(text)
    draft.rename(target)


def in_place(target: Path, text: bytes) -> None:
    target.write_bytes(text)


@pytest.mark.parametrize("write", [by_rename, in_place])
def test_an_intermediate_that_is_renewed(
    lane: Lane, start: Start, tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    """cert-manager, Vault: certificate and key come one after the other, and are used together."""
    place = tmp_path / "issued"
    crt, key, root = place / "tls.crt", place / "tls.key", tmp_path / "root"
    place.mkdir()
    anchor = subordinate_ca(root, crt, key).read_bytes()
    proxy = start(REGPROXY_WORKERS="2", CA_CRT_FILE=str(crt), CA_KEY_FILE=str(key))
    proxy.workers(2)
    target = lane.origin.authority
    assert trusts(proxy, anchor, target)
    before = proxy.metric("regproxy_ca_not_after_timestamp_seconds")

    other_crt, other_key = tmp_path / "other.crt", tmp_path / "other.key"
    subordinate_ca(root, other_crt, other_key, days=800)
    write(key, other_key.read_bytes())
    reason = f"{key}: not the key of {crt}; put the pair back, or remove both; the CA that is in use goes on"
    wait_until(lambda: proxy.log().count(reason) == 2, f"{reason}\n{proxy.log()}")
    assert [trusts(proxy, anchor, target) for _ in range(4)] == [True] * 4
    write(crt, other_crt.read_bytes())
    read_again(proxy, 2)
    assert proxy.log().count(reason) == 2
    assert [trusts(proxy, anchor, target) for _ in range(4)] == [True] * 4
    wait_until(
        lambda: proxy.metric("regproxy_ca_not_after_timestamp_seconds") - before > 90 * 86_400,
        "the new one's end is shown",
    )
    assert stopped(proxy) == 0


def test_a_mounted_secret(lane: Lane, start: Start, tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link that leads to both files. The root is not in its file."""
    root, mount = tmp_path / "root", tmp_path / "mount"
    mount.mkdir()
    for name in ("..1", "..2"):
        (mount / name).mkdir()
        anchor = subordinate_ca(root, mount / name / "ca.crt", mount / name / "ca.key", chain=False)
    (mount / "..data").symlink_to("..1")
    for name in ("ca.crt", "ca.key"):
        (mount / name).symlink_to(f"..data/{name}")
    proxy = start(REGPROXY_CA_DIR=str(mount))
    assert trusts(proxy, anchor.read_bytes(), lane.origin.authority)
    (mount / "..new").symlink_to("..2")
    (mount / "..new").rename(mount / "..data")
    read_again(proxy, 1)
    assert trusts(proxy, anchor.read_bytes(), lane.origin.authority)
    assert "goes on" not in proxy.log()
    assert stopped(proxy) == 0


def test_docker_registry_proxys_directory(lane: Lane, start: Start, tmp_path: Path) -> None:
    """It is used as it is, and only read."""
    place = tmp_path / "ca"
    drp_ca(place / "ca.crt", place / "ca.key")
    (place / "ca.srl").write_text("01\n")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    proxy = start(REGPROXY_CA_DIR=str(place))
    assert trusts(proxy, before["ca.crt"], lane.origin.authority)
    assert trusts(proxy, before["ca.crt"], "registry-1.docker.io:443")
    assert proxy.log().count("it may sign every name") == 1
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert stopped(proxy) == 0


def test_a_key_with_a_passphrase(lane: Lane, start: Start, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\n")
    proxy = start(REGPROXY_CA_PASSPHRASE_FILE=str(phrase))
    assert trusts(proxy, proxy.ca_pem, lane.origin.authority)
    assert proxy.ca_path.with_suffix(".key").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    openssl("pkey", "-in", proxy.ca_path.with_suffix(".key"), "-passin", "pass:open sesame", "-noout")
    shown = [Path(f"/proc/{pid}/{of}").read_bytes() for pid in proxy.pids() for of in ("cmdline", "environ")]
    assert b"sesame" not in b"".join(shown)
    phrase.write_text("wrong words\n")
    proxy.signal(HUP)
    wait_until(lambda: "not encrypted with the passphrase in" in proxy.log(), proxy.log())
    assert trusts(proxy, proxy.ca_pem, lane.origin.authority)
    assert "sesame" not in proxy.log() and "wrong words" not in proxy.log()
    ended = command(proxy, "show", REGPROXY_CA_PASSPHRASE_FILE=str(phrase))
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert stopped(proxy) == 0


def test_hosts_that_the_ca_may_not_sign(lane: Lane, start: Start, tmp_path: Path) -> None:
    """An intermediate with constraints of its own: who asks for more is told, and so is the log."""
    place = tmp_path / "ca"
    place.mkdir()
    subordinate_ca(tmp_path / "root", place / "ca.crt", place / "ca.key", permitted="reg.test")
    proxy = start(REGPROXY_CA_DIR=str(place))
    assert "its name constraints lack registry-1.docker.io" in proxy.log()
    with Client.connect(proxy.address) as client:
        reply = client.connect_to("registry-1.docker.io:443")
    assert reply.status == 502
    assert b"outside of the CA's name constraints" in reply.body
    assert b"put a CA that may sign it in the place of this one" in reply.body
    with Client.connect(proxy.address) as client:
        assert client.connect_to("registry-1.docker.io:443").status == 502
    said = "no certificate for registry-1.docker.io: registry-1.docker.io is outside of"
    assert proxy.log().count(said) == 1
    with AdminApi(proxy) as api:
        lacks = api.get("status")["ca_lacks"]
    assert "registry-1.docker.io" in lacks and "reg.test" not in lacks
    assert {path.name for path in place.iterdir()} == {"ca.crt", "ca.key"}
    assert stopped(proxy) == 0

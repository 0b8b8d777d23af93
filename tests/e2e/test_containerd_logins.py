"""hosts.toml of containerd with `header` and `client`: a login or a certificate for the proxy as a mirror."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.support.client_certificates import ClientCa
from tests.support.cri import Cri
from tests.support.docker_registry import Registry
from tests.support.images import Image
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Containerd, Failed

StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]
Pull = Callable[[str], object]

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("containerd", "ctr", "docker-registry")
]

NOWHERE = "http://127.0.0.1:1"  # nothing goes by another way
PASSWORD = "correct horse"
RIGHT = "Basic " + b64encode(f"alice:{PASSWORD}".encode()).decode()
WRONG = "Basic " + b64encode(b"alice:wrong").decode()


def hosts(place: Path, url: str, *lines: str, header: dict[str, str] | None = None) -> Path:
    """Write `_default/hosts.toml` with the proxy as a mirror, and return the directory."""
    text = [f'[host."{url}"]', 'capabilities = ["pull", "resolve"]', *lines]
    if header:
        text += [f'[host."{url}".header]', *(f'{name} = "{value}"' for name, value in header.items())]
    (place / "_default").mkdir(parents=True)
    (place / "_default" / "hosts.toml").write_text("\n".join(text) + "\n")
    return place


def puller(program: str, place: Path, told: Path, stack: ExitStack) -> Pull:
    """Start a containerd that has these hosts.toml, and no CA, and return how it pulls."""
    if program == "cri":
        return stack.enter_context(Cri(place, proxy=NOWHERE, ca=None, hosts=told)).pull
    return stack.enter_context(Containerd(place, proxy=NOWHERE, ca=None, hosts=told)).pull


def audited(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in which there is one at least."""
    text = wait_until(lambda: path.exists() and path.read_text(), f"a line in {path}")
    return [json.loads(line) for line in str(text).splitlines()]


HEADERS: list[tuple[str, dict[str, str], bool]] = [
    ("for the proxy", {"Proxy-Authorization": RIGHT}, True),
    ("for the registry that it is", {"Authorization": RIGHT}, True),
    ("wrong", {"Proxy-Authorization": WRONG}, False),
    ("wrong for the registry", {"Authorization": WRONG}, False),
    ("none", {}, False),
]


@pytest.mark.parametrize("program", ["ctr", "cri"])
@pytest.mark.parametrize("header, lets_in", [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS])
def test_a_login_in_header(
    program: str,
    header: dict[str, str],
    lets_in: bool,
    start_registry: StartRegistry,
    start_proxy: StartProxy,
    tmp_path: Path,
    image: Image,
    stack: ExitStack,
) -> None:
    registry = start_registry()
    target = registry.push("lib/app", "v1", image)
    users = tmp_path / "users"
    users.write_text(f"alice:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    proxy = start_proxy(
        registry,
        REGPROXY_HTPASSWD=str(users),
        REGPROXY_UNKNOWN_CLIENTS="deny",
        REGPROXY_AUDIT_LOG=str(tmp_path / "audit"),
        REGPROXY_AUDIT_IDLE="1s",
    )
    told = hosts(tmp_path / "hosts", proxy.url, header=header)
    pull = puller(program, tmp_path / program, told, stack)
    if not lets_in:
        before = registry.requests()
        with pytest.raises(Failed):
            pull(target)
        assert registry.requests() == before
        proxy.access_log(1, check=lambda line: line["status"] == "401")
        return
    pull(target)
    (line,) = audited(tmp_path / "audit")
    assert (line["principal"], line["proven_by"], line["way"]) == ("alice", "user", "mirror")
    secrets = (PASSWORD, RIGHT.removeprefix("Basic "))
    assert not any(secret in proxy.log() + (tmp_path / "audit").read_text() for secret in secrets)


CERTIFICATES: list[tuple[str, str | None, bool]] = [
    ("both in one file", 'client = "{both}"', True),
    ("a pair", 'client = [["{both}", "{both}"]]', True),
    ("another CA's", 'client = "{other}"', False),
    ("none", None, False),
]


@pytest.mark.parametrize("program", ["ctr", "cri"])
@pytest.mark.parametrize(
    "line, lets_in", [row[1:] for row in CERTIFICATES], ids=[row[0] for row in CERTIFICATES]
)
def test_a_certificate_in_client(
    program: str,
    line: str | None,
    lets_in: bool,
    start_registry: StartRegistry,
    start_proxy: StartProxy,
    tmp_path: Path,
    image: Image,
    stack: ExitStack,
) -> None:
    registry = start_registry()
    target = registry.push("lib/app", "v1", image)
    host, port = free_address()
    ca, cas, toml = ClientCa(tmp_path), tmp_path / "cas.pem", tmp_path / "regproxy.toml"
    cas.write_bytes(ca.pem)
    toml.write_text('[principal.nodes]\ncertificates = ["CN:node"]\n')
    proxy = start_proxy(
        registry,
        REGPROXY_TLS_LISTEN=f"{host}:{port}",
        REGPROXY_CLIENT_CA_FILE=str(cas),
        REGPROXY_CLIENT_CERTS="required",
        REGPROXY_CONFIG=str(toml),
        REGPROXY_AUDIT_LOG=str(tmp_path / "audit"),
        REGPROXY_AUDIT_IDLE="1s",
    )
    files = {"both": ca.issue("node"), "other": ClientCa(tmp_path, "others").issue("node")}
    lines = [f'ca = "{proxy.ca_path}"', *([line.format(**files)] if line else [])]
    told = hosts(tmp_path / "hosts", f"https://{host}:{port}", *lines)
    pull = puller(program, tmp_path / program, told, stack)
    if not lets_in:
        before = registry.requests()
        with pytest.raises(Failed):
            pull(target)
        assert registry.requests() == before
        return
    pull(target)
    (line_,) = audited(tmp_path / "audit")
    assert (line_["principal"], line_["proven_by"], line_["way"]) == ("nodes", "certificate", "mirror")

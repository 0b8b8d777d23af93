"""hosts.toml of containerd with `header` and `client`: a login or a certificate for the proxy as a mirror."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
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
from tests.support.trust import Trust

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


@dataclass(frozen=True)
class World:
    """A registry, and the proxy before it with an audit log; each test has a repository of its own."""

    registry: Registry
    proxy: Proxy
    audit: Path
    numbers: Iterator[int]

    def publish(self, image: Image) -> str:
        """Push to a repository that no test had before; the image's name there."""
        return self.registry.push(f"lib/app{next(self.numbers)}", "v1", image)

    def audited(self, target: str) -> list[dict[str, Any]]:
        """The lines of the log about that image; waits until there is one."""
        repository = target.partition("/")[2].rpartition(":")[0]

        def lines() -> list[dict[str, Any]]:
            text = self.audit.read_text() if self.audit.exists() else ""
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            return [line for line in found if line["repository"] == repository]

        return wait_until(lines, f"a line about {repository} in {self.audit}")


def world(place: Path, trust: Trust, stack: ExitStack, **env: str) -> World:
    registry = stack.enter_context(Registry(place / "registry", trust))
    audit = place / "audit"
    proxy = Proxy(
        place / "proxy",
        {"REGPROXY_AUDIT_LOG": str(audit), "REGPROXY_AUDIT_IDLE": "1s", **env},
        registries=(registry.authority,),
        resolve=registry.resolve,
        ca=trust.path,
    )
    return World(registry, stack.enter_context(proxy), audit, count())


@pytest.fixture(scope="module")
def behind_logins(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Alice is let in, nobody else."""
    place = tmp_path_factory.mktemp("logins")
    users = place / "users"
    users.write_text(f"alice:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    with ExitStack() as stack:
        yield world(*(place, trust, stack), REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="deny")


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
    behind_logins: World,
    tmp_path: Path,
    image: Image,
    stack: ExitStack,
) -> None:
    registry, proxy = behind_logins.registry, behind_logins.proxy
    target = behind_logins.publish(image)
    told = hosts(tmp_path / "hosts", proxy.url, header=header)
    pull = puller(program, tmp_path / program, told, stack)
    if not lets_in:
        before, refused = registry.requests(), len(proxy.access_log(check=is_refused))
        with pytest.raises(Failed):
            pull(target)
        assert registry.requests() == before
        proxy.access_log(refused + 1, check=is_refused)
        return
    pull(target)
    (line,) = behind_logins.audited(target)
    assert (line["principal"], line["proven_by"], line["way"]) == ("alice", "user", "mirror")
    secrets = (PASSWORD, RIGHT.removeprefix("Basic "))
    assert not any(secret in proxy.log() + behind_logins.audit.read_text() for secret in secrets)


def is_refused(line: dict[str, Any]) -> bool:
    return bool(line["status"] == "401")


CERTIFICATES: list[tuple[str, str | None, bool]] = [
    ("both in one file", 'client = "{both}"', True),
    ("a pair", 'client = [["{both}", "{both}"]]', True),
    ("another CA's", 'client = "{other}"', False),
    ("none", None, False),
]


@dataclass(frozen=True)
class Guarded:
    """A proxy that wants certificates at `url`; `files` are some of clients, by whose they are."""

    world: World
    url: str
    files: dict[str, Path]


@pytest.fixture(scope="module")
def behind_certificates(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    place = tmp_path_factory.mktemp("certificates")
    host, port = free_address()
    ca, cas, toml = ClientCa(place), place / "cas.pem", place / "regproxy.toml"
    cas.write_bytes(ca.pem)
    toml.write_text('[principal.nodes]\ncertificates = ["CN:node"]\n')
    files = {"both": ca.issue("node"), "other": ClientCa(place, "others").issue("node")}
    with ExitStack() as stack:
        started = world(
            *(place, trust, stack),
            REGPROXY_TLS_LISTEN=f"{host}:{port}",
            REGPROXY_CLIENT_CA_FILE=str(cas),
            REGPROXY_CLIENT_CERTS="required",
            REGPROXY_CONFIG=str(toml),
        )
        yield Guarded(started, f"https://{host}:{port}", files)


@pytest.mark.parametrize("program", ["ctr", "cri"])
@pytest.mark.parametrize(
    "line, lets_in", [row[1:] for row in CERTIFICATES], ids=[row[0] for row in CERTIFICATES]
)
def test_a_certificate_in_client(
    program: str,
    line: str | None,
    lets_in: bool,
    behind_certificates: Guarded,
    tmp_path: Path,
    image: Image,
    stack: ExitStack,
) -> None:
    started = behind_certificates.world
    target = started.publish(image)
    lines = [f'ca = "{started.proxy.ca_path}"']
    lines += [line.format(**behind_certificates.files)] if line else []
    told = hosts(tmp_path / "hosts", behind_certificates.url, *lines)
    pull = puller(program, tmp_path / program, told, stack)
    if not lets_in:
        before = started.registry.requests()
        with pytest.raises(Failed):
            pull(target)
        assert started.registry.requests() == before
        return
    pull(target)
    (found,) = started.audited(target)
    assert (found["principal"], found["proven_by"], found["way"]) == ("nodes", "certificate", "mirror")

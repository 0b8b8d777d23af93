"""Tokens of a real registry: docker-registry verifies what the Authorizer got from the token server."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.grants import Grant
from regproxy.config.sources.assembly import load
from regproxy.http.messages import NONE, Headers, Request, Response, parse_request
from regproxy.http.origin import Origin
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.registry.targets import parse_target
from tests.support.docker_registry import Registry
from tests.support.images import Image
from tests.support.login_helpers import Clock, script
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

PASSWORD = "s3cr3t"
# docker-registry has no OCI manifest for who doesn't name its type.
ACCEPT = (b"accept", ",".join(MANIFEST_TYPES).encode())


class Http:
    """Asks real servers, each by its name at its own address."""

    def __init__(self, trust: Trust, addresses: dict[tuple[str, int], tuple[str, int]]) -> None:
        self._context = trust.client_context()
        self._addresses = addresses

    async def exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        registry: Origin | None = None,
    ) -> tuple[int, Response, bytes]:
        return await asyncio.to_thread(self._ask, origin, method, target, headers, body)

    def _ask(
        self, origin: Origin, method: str, target: str, headers: Headers, body: bytes
    ) -> tuple[int, Response, bytes]:
        connection = _Connection(origin, self._addresses[origin.host, origin.port], self._context)
        try:
            connection.request(
                method, target, body, {name.decode(): value.decode() for name, value in headers}
            )
            answer = connection.getresponse()
            fields = tuple((name.lower().encode(), value.encode()) for name, value in answer.getheaders())
            return answer.status, Response(answer.status, b"", 1, fields, NONE, True), answer.read()
        finally:
            connection.close()


class _Connection(http.client.HTTPSConnection):
    def __init__(self, origin: Origin, address: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(origin.host, origin.port, context=context, timeout=20)
        self._to, self._tls = address, context

    def connect(self) -> None:
        self.sock = self._tls.wrap_socket(socket.create_connection(self._to, 20), server_hostname=self.host)


def asking(registry: Registry, repository: str) -> tuple[Origin, Request]:
    head = f"GET /v2/{repository}/manifests/1 HTTP/1.1\r\nHost: {registry.authority}\r\n\r\n"
    return Origin("https", registry.name, registry.port), parse_request(head.encode())


async def pull(
    http: Http, authorizer: Authorizer, registry: Registry, repository: str, *, own: bool = False
) -> tuple[list[int], Grant | None]:
    """Ask for a tag as Upstream does; return the statuses and what was sent last."""
    origin, request = asking(registry, repository)
    target = parse_target(request.path)
    grant = await authorizer.authorization(origin, target, request, own_account=own)
    statuses: list[int] = []
    while True:
        put = () if grant is None else ((b"authorization", grant.value),)
        status, response, _ = await http.exchange(origin, "GET", request.path, (ACCEPT, *put), b"")
        statuses.append(status)
        if status != 401 or len(statuses) == 2:
            return statuses, grant
        grant = await authorizer.refused(origin, target, request, response, grant, own_account=own)
        if grant is None:
            return statuses, grant


def test_a_private_image(
    trust: Trust,
    image: Image,
    tmp_path: Path,
    start_tokens: Callable[..., TokenServer],
    start_registry: Callable[..., Registry],
) -> None:
    tokens = start_tokens(name="auth.reg.test", users={"u": PASSWORD}, private=("a/private",))
    registry = start_registry("reg.reg.test", tokens=tokens)
    for repository in ("a/private", "a/public"):
        registry.push(repository, "1", image, creds=f"u:{PASSWORD}")
    pushed = len(tokens.requests)
    http = Http(
        trust,
        {
            (registry.name, registry.port): registry.address,
            (tokens.origin.name, tokens.origin.port): tokens.origin.address,
        },
    )
    answer = "print(json.dumps({'Username': 'u', 'Secret': 's3cr3t'}))"
    helper = script(tmp_path / "docker-credential-own", answer)
    toml = f"[origin.'{registry.authority}'.credentials]\nhelper = '{helper}'\n"

    async def test() -> None:
        with_login = Authorizer(load({}, toml), http)
        assert (await pull(http, with_login, registry, "a/private"))[0] == [401, 200]
        statuses, grant = await pull(http, with_login, registry, "a/private")
        assert statuses == [200]
        assert grant is not None and grant.credential == "u"
        assert (await pull(http, with_login, registry, "a/public"))[0] == [200]
        assert len(tokens.requests) == pushed + 2

        nobody = Authorizer(load({}), http)
        assert (await pull(http, nobody, registry, "a/public"))[0] == [401]
        statuses, grant = await pull(http, nobody, registry, "a/public", own=True)
        assert statuses[-1] == 200
        assert grant is not None and grant.credential == "anonymous"
        assert (await pull(http, nobody, registry, "a/private", own=True))[0] == [401]

        tokens.users["u"] = "changed"
        wrong = Authorizer(load({}, toml), http, Clock())
        before = len(tokens.requests)
        # The wrong password is shown once, and once for no repository, and what is public goes on.
        assert (await pull(http, wrong, registry, "a/public"))[0] == [401, 200]
        assert (await pull(http, wrong, registry, "a/private"))[0][-1] == 401
        with_password = [seen for seen in tokens.requests[before:] if seen.get("authorization")]
        assert len(with_password) == 2
        assert "refused by auth.reg.test" in wrong.reason(asking(registry, "a/public")[0])

    asyncio.run(test())

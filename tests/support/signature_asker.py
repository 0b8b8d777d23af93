"""What a worker looks for signatures with, in an event loop of the test: the real client of registries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import uvloop
from prometheus_client import CollectorRegistry

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.token_realms import Realms
from regproxy.cache import layout
from regproxy.cache.index.attestations import Attestations
from regproxy.cache.index.index import Index
from regproxy.config.settings import Config
from regproxy.config.signing_keys import SigningKey
from regproxy.config.sources.assembly import load
from regproxy.dataplane.reactor import Reactor
from regproxy.http.messages import parse_request
from regproxy.http.origin import Origin
from regproxy.policy.interception import Interception
from regproxy.policy.origins import Origins
from regproxy.policy.signatures import SignatureVerdict
from regproxy.server.signature_checks import SignatureChecks
from regproxy.telemetry.metrics import Metrics
from regproxy.tls.client_contexts import Trust as ClientTrust
from regproxy.upstream.admission import Gate
from regproxy.upstream.circuit_breaker import Breakers
from regproxy.upstream.client import Upstream
from regproxy.upstream.connections.dialer import Dialer
from regproxy.upstream.quotas import Quotas
from tests.support.trust import Trust


class Place(Protocol):
    """A registry or origin of the test."""

    @property
    def name(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def resolve(self) -> dict[str, str]: ...


class SignatureAsker:
    """Checks signatures at `place`. `env`: more settings; `now`: the clock that `checks` has, to be moved."""

    def __init__(
        self, root: Path, trust: Trust, place: Place, keys: Mapping[str, SigningKey], **env: str
    ) -> None:
        names = place.resolve
        config = load(
            {
                "REGPROXY_RESOLVE": " ".join(f"{name}={address}" for name, address in names.items()),
                "REGPROXY_ALLOW_TARGETS": " ".join(names),
                "REGPROXY_UPSTREAM_CA_FILE": str(trust.path),
                "REGISTRIES": f"{place.name}:{place.port}",
                **env,
            }
        )
        root.mkdir(parents=True, exist_ok=True)
        self.origin = Origin("https", place.name, place.port)
        self.now = 1000.0
        self.loop = uvloop.new_event_loop()
        self.reactor = Reactor(self.loop, debug=True)
        self.reactor.start()
        self.index = Index.open(layout.index(root))
        self.upstream = self._client(config, root)
        self.checks = SignatureChecks(
            self.upstream,
            keys,
            Attestations(self.index),
            offline=lambda: config.offline,
            clock=lambda: self.now,
        )

    def _client(self, config: Config, root: Path) -> Upstream:
        metrics, origins = Metrics(CollectorRegistry()), Origins(config)
        dialer = Dialer(
            *(config, origins, Interception(config), ClientTrust(config), self.reactor, self.loop, metrics)
        )
        gate = Gate(Breakers(metrics), Quotas(None, config.quota_reserve, metrics))
        realms = Realms(layout.realms(root))
        make: Callable[..., Authorizer] = lambda exchange: Authorizer(  # noqa: E731
            config, exchange, origins=origins, counter=metrics, realms=realms
        )
        return Upstream(dialer, origins, gate, metrics, make)

    async def ask(
        self, repository: str, digest: str, *keys: str, authorization: str = ""
    ) -> SignatureVerdict:
        """Check an image for a client with these credentials."""
        head = f"GET /v2/{repository}/manifests/{digest} HTTP/1.1\r\nHost: {self.origin.host}\r\n"
        head += f"Authorization: {authorization}\r\n" if authorization else ""
        request = parse_request(f"{head}\r\n".encode())
        return await self.checks.check(self.origin, repository, digest, keys or ("release",), request)

    def check(self, repository: str, digest: str, *keys: str, authorization: str = "") -> SignatureVerdict:
        """Do as ask() does, and wait for it. Raises UpstreamError."""
        return self.loop.run_until_complete(self.ask(repository, digest, *keys, authorization=authorization))

    def close(self) -> None:
        self.checks.close()
        self.upstream.close()
        self.index.close()
        self.reactor.stop()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

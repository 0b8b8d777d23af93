"""Admit requests to origins by circuit breakers and quotas, and learn from the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from regproxy.auth.grants import Grant
from regproxy.core.errors import BadResponse, ConnectFailed, RateLimited, UpstreamTimeout
from regproxy.http.messages import Request, Response
from regproxy.http.origin import Origin
from regproxy.registry.rate_limits import ANONYMOUS, CLIENT, client_credential
from regproxy.registry.targets import Kind
from regproxy.upstream.circuit_breaker import Breakers
from regproxy.upstream.connections.connection import Connection
from regproxy.upstream.failures import Failures
from regproxy.upstream.quotas import Quotas

_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})

# Kinds of request that a registry which is up answers in time.
_TELLING: Final = _CONTENT | {Kind.PING, Kind.TOKEN}

T = TypeVar("T", bound=tuple[Connection, Response])


class Gate:
    """Circuit breakers and quotas around requests."""

    def __init__(self, breakers: Breakers, quotas: Quotas, failures: Failures | None = None) -> None:
        self.breakers = breakers
        self.quotas = quotas
        self.failures = failures or Failures()

    async def through(
        self,
        origin: Origin,
        credential: str,
        method: str,
        kind: Kind,
        send: Callable[[], Awaitable[T]],
        *,
        limited: bool = True,
        counted: bool = True,
    ) -> T:
        """Send a request unless a circuit breaker or quota forbids it, and learn from the outcome.

        `limited`: not sent either while the registry has said that it would refuse it. `counted`: what comes
        of it tells of the registry's quota.
        """
        breakers, quotas = self.breakers, self.quotas
        breakers.admit(origin)
        try:
            if limited:
                quotas.admit(origin.name, credential, method, kind)
            result = await send()
        except RateLimited:
            # This request may have been the circuit breaker's probe.
            breakers.abandoned(origin)
            raise
        except (ConnectFailed, UpstreamTimeout) as error:
            self.failures.note(origin.name, str(error))
            if isinstance(error, ConnectFailed) or kind in _TELLING:
                breakers.failed(origin, error)
            else:
                # A client may ask for a page that is slow; that says nothing about the registry.
                breakers.abandoned(origin)
            raise
        except BadResponse as error:
            self.failures.note(origin.name, str(error))
            # The origin is up.
            breakers.answered(origin)
            raise
        except BaseException:
            # Also a connection that was lost: quickly, and maybe for this request alone.
            breakers.abandoned(origin)
            raise
        breakers.answered(origin)
        status = result[1].status
        if status >= 500 or status == 429:
            self.failures.note(origin.name, f"it answered {status} to a {method} for {kind.value}")
        if counted and kind in _CONTENT:
            # Other paths have limits of their own.
            quotas.observe(origin.name, credential, method, kind, result[1])
        return result

    def close(self) -> None:
        """Write quotas that are not written yet."""
        self.quotas.close()


def credential_of(grant: Grant | None, request: Request) -> str:
    """Return the credential whose quota a request with this grant uses up."""
    if grant is None:
        return ANONYMOUS
    if grant.credential == CLIENT:
        return client_credential(request.get(b"authorization"))
    return grant.credential

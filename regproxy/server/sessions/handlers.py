"""Make the handlers that carry out plans, and connect them to each other."""

from __future__ import annotations

from regproxy.server.access_guard import AccessGuard
from regproxy.server.context import Services
from regproxy.server.fetches import Fetches
from regproxy.server.guards import PASSED_SECONDS, Guards
from regproxy.server.hits import Hits
from regproxy.server.image_policy import ImagePolicy
from regproxy.server.misses import Misses
from regproxy.server.passthrough import Passthrough
from regproxy.server.responder import Responder
from regproxy.server.tag_requests import TagRequests
from regproxy.server.token_requests import TokenRequests
from regproxy.server.tunnel_requests import TunnelRequests


class Handlers:
    """The handlers that carry out plans: one set for all sessions of a worker; calls name the exchange."""

    __slots__ = ("guards", "hits", "misses", "responder", "services", "tags", "tunnels")

    def __init__(self, services: Services) -> None:
        self.services = services
        self.responder = responder = Responder(services)
        self.hits = hits = Hits(services, responder)
        self.tags = tags = TagRequests(services, responder, hits)
        passthrough = Passthrough(services, responder, TokenRequests(services, responder))
        fetches = Fetches(services, responder, hits)
        self.misses = Misses(services, responder, fetches, tags, passthrough)
        self.tunnels = TunnelRequests(services, responder)
        self.guards = self._guards(services, passthrough)

    def _guards(self, services: Services, passthrough: Passthrough) -> Guards | None:
        access = services.rights.access
        rules = (
            ImagePolicy(services, self.responder, self.tags, services.signatures)
            if services.config.image_rules.rules
            else None
        )
        if not access.guarded:
            return Guards(last=rules) if rules is not None else None
        guard = AccessGuard(services, self.responder, passthrough)
        return Guards(guard, lasts=min(access.ttl, PASSED_SECONDS), last=rules)

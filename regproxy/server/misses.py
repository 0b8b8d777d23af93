"""Answer what is not a fresh hit: from its origin through the cache, or passed on beside it."""

from __future__ import annotations

from regproxy.core.errors import NotShown, NotUnderstood, UpstreamError
from regproxy.fill.fills import CacheRequest, UpstreamAnswer
from regproxy.http.origin import Origin
from regproxy.policy.plans import Action, Plan
from regproxy.registry.targets import Kind
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.fetches import Fetches
from regproxy.server.lookup import Copy
from regproxy.server.passthrough import Passthrough
from regproxy.server.responder import Responder
from regproxy.server.routes import Route
from regproxy.server.tag_requests import TagRequests
from regproxy.server.uncacheable import Uncacheable


class Misses:
    """Carries out plans that need an origin. One for each worker; calls name the exchange."""

    __slots__ = ("_fetches", "_passthrough", "_responder", "_services", "_tags", "_uncacheable")

    def __init__(
        self,
        services: Services,
        responder: Responder,
        fetches: Fetches,
        tags: TagRequests,
        passthrough: Passthrough,
    ) -> None:
        self._services = services
        self._responder = responder
        self._fetches = fetches
        self._tags = tags
        self._passthrough = passthrough
        self._uncacheable = Uncacheable(services, passthrough)

    async def answer(
        self, exchange: Exchange, plan: Plan, origin: Origin, route: Route, copy: Copy | None
    ) -> None:
        """Answer as planned. `copy`: a tag's that is not fresh. Raises RegproxyError, UpstreamAnswer."""
        if plan.action is Action.PASS or self._services.lookup.was_deleted(origin, route):
            await self._passthrough.run(exchange, origin, route)
            return
        wanted = self._services.rights.wanted(exchange, origin, route, own_account=route.asks_proxy)
        detail, itself = self._uncacheable.detail(wanted), exchange.said_size is not None
        if not detail:
            try:
                await self._ask_cache(exchange, plan.action is Action.FETCH, wanted, route, copy)
            except NotUnderstood as error:
                if exchange.status:
                    raise
                detail, error.__traceback__ = error.detail, None
                itself = isinstance(error, NotShown)
                if not itself:
                    self._uncacheable.note(wanted, error)
        if detail:
            self._responder.wait_for_fill(exchange, False)
            spare = copy is not None and copy.usable_if_error
            try:
                await self._uncacheable.answer(exchange, route, wanted, detail, spare=spare, itself=itself)
            except UpstreamError as error:
                exchange.detail = ""
                if exchange.status or not self._tags.serve_stale(exchange, copy, error):
                    raise

    async def _ask_cache(
        self, exchange: Exchange, fetches: bool, wanted: CacheRequest, route: Route, copy: Copy | None
    ) -> None:
        """Answer by what is fetched into the cache, or by a HEAD. Raises NotUnderstood, and others."""
        if route.target.kind is Kind.TAG:
            answer = self._tags.get if fetches else self._tags.head
            await answer(exchange, route, wanted, copy)
        elif route.shared.own:
            await self._ask_own(exchange, fetches, wanted, route)
        elif fetches:
            await self._fetches.fetch(exchange, route, wanted)
        else:
            await self._fetches.ask_head(exchange, route, wanted)

    async def _ask_own(self, exchange: Exchange, fetches: bool, wanted: CacheRequest, route: Route) -> None:
        """Ask for content by digest without the client's own fields; if that is refused, pass the request on.

        The fields left out may be what lets the request in, such as a key in a header of its own.
        """
        try:
            if fetches:
                await self._fetches.fetch(exchange, route, wanted)
            else:
                await self._fetches.ask_head(exchange, route, wanted, refusable=True)
        except UpstreamAnswer as answer:
            if not 400 <= answer.response.status < 500 or exchange.status:
                raise
            answer.__traceback__ = None
            self._responder.wait_for_fill(exchange, False)
            await self._passthrough.run(exchange, wanted.origin, route)

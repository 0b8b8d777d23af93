"""Decide what is done with a request, from values alone: no socket, no clock, no disk.

Behaviour is docker-registry-proxy's unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from regproxy.config.settings import Config
from regproxy.config.tag_tiers import Tiers
from regproxy.http.messages import READS
from regproxy.policy.freshness import Lifetime
from regproxy.policy.lending import cannot_be_push, is_plain
from regproxy.registry.targets import Kind, Target

TAG_DISABLED: Final = "manifest-default-disabled"

# docker-registry-proxy's words; {host} is the registry's name.
_V1 = (
    "docker is trying to use v1 API. Either the image does not exist upstream, or you need to configure"
    " docker-registry-proxy to authenticate against {host}"
)
_OFFLINE = "this is not held, and this proxy is offline: no registry is asked"


class Action(Enum):
    """What to do with a request."""

    SERVE = auto()  # from the cache, without asking the origin
    STALE = auto()  # from the cache although stale, without asking the origin
    RENEW = auto()  # from the cache although stale, while the origin is asked
    FETCH = auto()  # from the origin, into the cache
    HEAD = auto()  # only the origin's head, nothing to store
    PASS = auto()  # through to the origin, uncached
    PONG = auto()  # answer /v2/ instead of the origin
    REFUSE = auto()


class Plan(Struct, frozen=True):
    """What a request gets. `kind`: its type for headers, log and metrics; the rest: why it is refused."""

    action: Action
    kind: str
    status: int = 0
    code: str = ""
    reason: str = ""


_SERVE_BY_DIGEST = {kind: Plan(Action.SERVE, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_FETCH_BY_DIGEST = {kind: Plan(Action.FETCH, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_HEAD_BY_DIGEST = {kind: Plan(Action.HEAD, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_PASS = {kind: Plan(Action.PASS, kind.value) for kind in Kind}
PONG = Plan(Action.PONG, Kind.PING.value)


class Policy:
    """The rules of one configuration."""

    def __init__(self, config: Config, switched_offline: Callable[[], bool] = lambda: False) -> None:
        """`switched_offline()`: whether somebody has, at run time; a setting holds whatever it says."""
        self._config = config
        self._switched_offline = switched_offline
        self._tiers = Tiers(config.tiers)
        self._lifetimes = {
            (tier.name, tier.ttl, tier.swr): Lifetime(tier.name, tier.ttl, tier.swr, config.max_stale)
            for tier in config.tiers
        }
        self._unkept = Lifetime(TAG_DISABLED, 0.0, 0.0, config.max_stale)
        self._tag_plans: dict[tuple[Action, str], Plan] = {}

    @property
    def offline(self) -> bool:
        """Whether no registry is asked."""
        return self._config.offline or self._switched_offline()

    # --- requests ----------------------------------------------------------------------------------------

    def plan(
        self,
        method: str,
        target: Target,
        held: bool,
        age: float | None,
        path: str = "/v2/",
        stretch: float = 1.0,
    ) -> Plan:
        """Return the plan for one request.

        `held`: the content (of the digest, or of the tag's stored variant that suits the request) is in the
        cache. `age`: seconds since the origin confirmed that tag, inf if the tag has moved since; None for
        content by digest. `path`: as sent by the client. `stretch`: how many times longer tags are fresh.
        """
        plan = self._plan(method, target, held, age, path, stretch)
        # A hit is served whatever this is.
        if plan.action is Action.SERVE or not self.offline or plan.action is Action.REFUSE:
            return plan
        if target.kind is Kind.PING and method in READS:
            return PONG
        if plan.action is Action.RENEW or (held and target.kind is Kind.TAG and method in READS):
            return self._tag_plan(Action.STALE, plan.kind)
        return Plan(Action.REFUSE, plan.kind, 503, "UNAVAILABLE", _OFFLINE)

    def _plan(
        self, method: str, target: Target, held: bool, age: float | None, path: str, stretch: float
    ) -> Plan:
        kind = target.kind
        if method not in READS:
            return self._plan_write(method, target, path)
        if kind is Kind.BLOB or kind is Kind.MANIFEST:
            if held:
                return _SERVE_BY_DIGEST[kind]
            return _FETCH_BY_DIGEST[kind] if method == "GET" else _HEAD_BY_DIGEST[kind]
        if kind is Kind.TAG:
            return self._plan_tag(method, target.reference, age if held else None, stretch)
        if kind is Kind.V1:
            return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", _V1)
        return _PASS[kind]

    def lifetime(self, tag: str) -> Lifetime:
        """Return the lifetime of a tag's copies."""
        if not self._config.manifest_cache:
            # The origin is asked every time; stored copies only serve when it fails.
            return self._unkept
        tier = self._tiers.match(tag)
        return self._lifetimes[tier.name, tier.ttl, tier.swr]

    def asks_presence(self, method: str, target: Target) -> bool:
        """Return whether only the registry can answer this: whether it has this content in this repository.

        A client that pushes sends a HEAD first, and leaves out what is there already. The answer is kept with
        the head: whoever goes by it asks besides whether the proxy was switched `offline` meanwhile.
        """
        if method != "HEAD" or self._config.offline:
            return False
        return target.kind in _SERVE_BY_DIGEST or (target.kind is Kind.TAG and self._config.allow_push)

    def _plan_tag(self, method: str, tag: str, age: float | None, stretch: float) -> Plan:
        lifetime = self.lifetime(tag)
        action = Action.FETCH if method == "GET" else Action.HEAD
        if age is not None and not (method == "HEAD" and self._config.allow_push):
            if lifetime.is_fresh(age, stretch):
                action = Action.SERVE
            elif lifetime.may_renew(age, stretch):
                action = Action.RENEW
        return self._tag_plan(action, lifetime.name)

    def as_own(self, plan: Plan, target: Target) -> Plan:
        """Return the plan for a request whose answer must not be shared: a tag is passed on uncached.

        Content by digest is the same for everybody, so its plan stays.
        """
        asks = plan.action in (Action.FETCH, Action.HEAD)
        return self._tag_plan(Action.PASS, plan.kind) if target.kind is Kind.TAG and asks else plan

    def _tag_plan(self, action: Action, name: str) -> Plan:
        plan = self._tag_plans.get((action, name))
        if plan is None:
            plan = self._tag_plans[action, name] = Plan(action, name)
        return plan

    def _plan_write(self, method: str, target: Target, path: str) -> Plan:
        kind = target.kind
        if method == "CONNECT":
            # If a registry answered 200, the connection would be a tunnel from then on.
            return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", "CONNECT within a CONNECT")
        path = path.partition("?")[0]
        # Newer clients ask for tokens by POST; refusing that breaks their login.
        for_token = method == "POST" and kind is Kind.TOKEN and is_plain(path)
        if method == "OPTIONS" or for_token:
            return _PASS[kind]
        if kind is Kind.V1:
            return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", _V1)
        # An origin may decode and normalise a path: a push by another spelling is still one. And the server
        # of a registry's tokens may be anywhere.
        outside = method == "POST" and kind is Kind.OTHER and cannot_be_push(path)
        if self._config.allow_push or outside:
            return _PASS[kind]
        reason = f"{method} is not allowed: this proxy only pulls (ALLOW_PUSH=true lets pushes through)"
        # docker-registry-proxy says 405, which podman and buildah try again for some seconds.
        return Plan(Action.REFUSE, kind.value, 403, "DENIED", reason)

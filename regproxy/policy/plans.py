"""Decide what is done with a request, from values alone: no socket, no clock, no disk.

`plan_connect` decides about a CONNECT, `plan` about a request. Behaviour is docker-registry-proxy's unless a
comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from regproxy.config.settings import Config, HostRule
from regproxy.config.tag_tiers import Tiers
from regproxy.core.addresses import Reach, reach_of
from regproxy.policy.freshness import Lifetime
from regproxy.policy.lending import cannot_be_push, is_plain
from regproxy.registry.targets import Kind, Target

TAG_DISABLED: Final = "manifest-default-disabled"

_READS = frozenset({"GET", "HEAD"})
_OFFLINE = "this is not held, and this proxy is offline (REGPROXY_OFFLINE=true): no registry is asked"
_KNOWN_HOSTS_MAX = 4096


class Decision(Enum):
    """The decision about a CONNECT."""

    INTERCEPT = auto()
    TUNNEL = auto()
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class ConnectPlan:
    """The plan for a CONNECT. `reason` tells a refused client what was wrong."""

    decision: Decision
    reason: str = ""


class Action(Enum):
    """What to do with a request."""

    SERVE = auto()  # from the cache, without asking the origin
    STALE = auto()  # from the cache, though stale, without asking the origin
    RENEW = auto()  # from the cache, though stale, while the origin is asked
    FETCH = auto()  # from the origin, into the cache
    HEAD = auto()  # only the origin's head, nothing to store
    PASS = auto()  # through to the origin, uncached
    PONG = auto()  # /v2/ is answered in the origin's place
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan for a request. `kind` is the request type in headers, log and metrics; the rest says why it is
    refused.
    """

    action: Action
    kind: str
    status: int = 0
    code: str = ""
    reason: str = ""


_SERVE_BY_DIGEST = {kind: Plan(Action.SERVE, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_FETCH_BY_DIGEST = {kind: Plan(Action.FETCH, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_HEAD_BY_DIGEST = {kind: Plan(Action.HEAD, kind.value) for kind in (Kind.BLOB, Kind.MANIFEST)}
_PASS = {kind: Plan(Action.PASS, kind.value) for kind in Kind}
_PONG = Plan(Action.PONG, Kind.PING.value)
_ASKS_NOBODY = frozenset({Action.SERVE, Action.REFUSE})


class Policy:
    """The rules of one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tiers = Tiers(config.tiers)
        self._lifetimes = {
            (tier.name, tier.ttl, tier.swr): Lifetime(tier.name, tier.ttl, tier.swr, config.max_stale)
            for tier in config.tiers
        }
        self._unkept = Lifetime(TAG_DISABLED, 0.0, 0.0, config.max_stale)
        self._connects: dict[tuple[str, int], ConnectPlan] = {}
        self._tag_plans: dict[tuple[Action, str], Plan] = {}
        # Hosts that the configuration has logins for, or token servers that may get them.
        self._logins = frozenset(_login_hosts(config))
        self._written = frozenset(_written_names(config)) | {host for host, _ in self._logins}

    # --- CONNECT -----------------------------------------------------------------------------------------

    def plan_connect(self, host: str, port: int) -> ConnectPlan:
        """Intercept registries, tunnel other hosts on the allowed ports, refuse the rest."""
        known = self._connects.get((host, port))
        if known is None:
            known = self._plan_connect(host, port)
            if len(self._connects) >= _KNOWN_HOSTS_MAX:
                self._connects.clear()
            self._connects[host, port] = known
        return known

    def _plan_connect(self, host: str, port: int) -> ConnectPlan:
        config = self._config
        ports = ", ".join(str(p) for p in sorted(config.connect_ports))
        for rule in config.registries:
            if rule.matches(host, port) and (
                rule.port is not None or port == 443 or port in config.connect_ports
            ):
                return ConnectPlan(Decision.INTERCEPT)
        if any(rule.port == port and rule.matches(host, port) for rule in config.allow_targets):
            return ConnectPlan(Decision.TUNNEL)
        if port not in config.connect_ports:
            return ConnectPlan(
                Decision.REFUSE,
                f"port {port} may not be reached through this proxy (allowed: {ports}); "
                f"name it in REGISTRIES as {host}:{port}, or in REGPROXY_CONNECT_PORTS",
            )
        return ConnectPlan(Decision.TUNNEL)

    # --- addresses ---------------------------------------------------------------------------------------

    def address_allowed(
        self, host: str, port: int, address: str, *, answered: bool = False, itself: bool = False
    ) -> bool:
        """Tell whether `host`, which resolved to `address`, may be connected to.

        `answered`: an origin's answer has named it, in a redirect or as the token realm, and not a client.
        `itself`: it is the same host as the origin, on any port: its tokens or its storage are often there.

        Loopback, link-local and metadata addresses are only for hosts that the configuration names exactly;
        so are private ones if an answer has named the host, or if REGPROXY_PRIVATE_TARGETS=false.
        """
        reach = reach_of(address)
        if reach is Reach.PUBLIC or self.names(host, port):
            return True
        if reach is Reach.SPECIAL:
            return False
        config = self._config
        if (not answered and config.private_targets) or (itself and self.is_written(host)):
            return True
        if (host, port) in self._logins or (host, None) in self._logins:
            return True
        # A mask of all names below a domain is under its owner's control; anybody can match `reg.*`.
        below = (rule for rule in config.registries if rule.pattern.startswith((".", "*.")))
        return config.private_targets and any(rule.matches(host, port) for rule in below)

    def names(self, host: str, port: int) -> bool:
        """Tell whether a host is in REGISTRIES (without a mask), REGPROXY_RESOLVE or
        REGPROXY_ALLOW_TARGETS.
        """
        config = self._config
        return (
            host in config.resolve
            or any(rule.pattern == host and rule.matches(host, port) for rule in config.registries)
            or any(rule.matches(host, port) for rule in config.allow_targets)
        )

    def is_written(self, host: str) -> bool:
        """Tell whether the configuration has this exact name, for any port: then no other party has made it
        up.
        """
        return host in self._written

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
        cache. `age`: seconds since the origin confirmed that tag, inf if it has named another content since;
        None for content by digest. `path`: as it was sent. `stretch`: how many times longer tags are fresh.
        """
        plan = self._plan(method, target, held, age, path, stretch)
        if not self._config.offline or plan.action in _ASKS_NOBODY:
            return plan
        if target.kind is Kind.PING and method in _READS:
            return _PONG
        if plan.action is Action.RENEW or (held and target.kind is Kind.TAG and method in _READS):
            return self._tag_plan(Action.STALE, plan.kind)
        return Plan(Action.REFUSE, plan.kind, 503, "UNAVAILABLE", _OFFLINE)

    def _plan(
        self, method: str, target: Target, held: bool, age: float | None, path: str, stretch: float
    ) -> Plan:
        kind = target.kind
        if method not in _READS:
            return self._plan_write(method, target, path)
        if kind is Kind.BLOB or kind is Kind.MANIFEST:
            if held:
                return _SERVE_BY_DIGEST[kind]
            return _FETCH_BY_DIGEST[kind] if method == "GET" else _HEAD_BY_DIGEST[kind]
        if kind is Kind.TAG:
            return self._plan_tag(method, target.reference, age if held else None, stretch)
        if kind is Kind.V1:
            return Plan(
                Action.REFUSE, kind.value, 405, "UNSUPPORTED", "the v1 registry protocol is not proxied"
            )
        return _PASS[kind]

    def lifetime(self, tag: str) -> Lifetime:
        """Return how long copies of a tag are usable."""
        if not self._config.manifest_cache:
            # The origin is asked every time; the stored copy only helps when it fails.
            return self._unkept
        tier = self._tiers.match(tag)
        return self._lifetimes[tier.name, tier.ttl, tier.swr]

    def _plan_tag(self, method: str, tag: str, age: float | None, stretch: float) -> Plan:
        lifetime = self.lifetime(tag)
        action = Action.FETCH if method == "GET" else Action.HEAD
        if age is not None:
            if lifetime.is_fresh(age, stretch):
                action = Action.SERVE
            elif lifetime.may_renew(age, stretch):
                action = Action.RENEW
        return self._tag_plan(action, lifetime.name)

    def as_own(self, plan: Plan, target: Target) -> Plan:
        """Return the plan for a request whose answer must not be shared: one for a tag is passed on uncached.

        Content by digest is the same for all clients, so its plan does not change.
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
            # A registry that answered 200 would speak another protocol from then on.
            return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", "CONNECT within a CONNECT")
        path = path.partition("?")[0]
        # Newer clients ask for tokens by POST; refusing that breaks their login.
        for_token = method == "POST" and kind is Kind.TOKEN and is_plain(path)
        if method == "OPTIONS" or for_token:
            return _PASS[kind]
        if kind is Kind.V1:
            return Plan(
                Action.REFUSE, kind.value, 405, "UNSUPPORTED", "the v1 registry protocol is not proxied"
            )
        # An origin may decode and normalise a path: a push in another spelling is still one. And a registry's
        # token server may be anywhere.
        outside = method == "POST" and kind is Kind.OTHER and cannot_be_push(path)
        if self._config.allow_push or outside:
            return _PASS[kind]
        reason = f"{method} is not allowed: this proxy only pulls (ALLOW_PUSH=true lets pushes through)"
        return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", reason)


def _login_hosts(config: Config) -> Iterator[tuple[str, int | None]]:
    for credential in config.credentials:
        yield credential.host, credential.port
    for settings in config.origin_tables.own.values():
        if settings.credentials is not None and settings.credentials.token_server is not None:
            yield settings.credentials.token_server


def _written_names(config: Config) -> Iterator[str]:
    tables = config.origin_tables.own
    yield from (rule.pattern for rule in (*config.registries, *config.allow_targets) if not _is_mask(rule))
    yield from (host for host, _ in tables)
    for settings in tables.values():
        yield from (mirror.host for mirror in settings.mirrors)
        if settings.address is not None:
            yield settings.address


def _is_mask(rule: HostRule) -> bool:
    return "*" in rule.pattern or rule.pattern.startswith(".")

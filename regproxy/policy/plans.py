"""What is done with a request, decided from values alone: no socket, no clock, no disk.

`plan_connect` says what a CONNECT gets, `plan` what a request gets, `after_head` what an origin's answer
means. Behaviour is docker-registry-proxy's unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from regproxy.config.settings import Config
from regproxy.config.tag_tiers import Tiers
from regproxy.config.values import ANY_PORT
from regproxy.core.addresses import Reach, reach_of
from regproxy.policy.freshness import Lifetime
from regproxy.policy.lending import cannot_be_push, is_plain
from regproxy.policy.origins import intercepts
from regproxy.registry.targets import Kind, Target

TAG_DISABLED: Final = "manifest-default-disabled"

_READS = frozenset({"GET", "HEAD"})
# docker-registry-proxy's words; {host} is the registry's name.
_V1 = (
    "docker is trying to use v1 API. Either the image does not exist upstream, or you need to configure"
    " docker-registry-proxy to authenticate against {host}"
)
_OFFLINE = "this is not held, and this proxy is offline (REGPROXY_OFFLINE=true): no registry is asked"
_KNOWN_HOSTS_MAX = 4096


class Decision(Enum):
    """What becomes of a CONNECT."""

    INTERCEPT = auto()
    TUNNEL = auto()
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class ConnectPlan:
    """`reason` tells a refused client what was wrong."""

    decision: Decision
    reason: str = ""


class Action(Enum):
    """What becomes of a request."""

    SERVE = auto()  # from the cache, nobody is asked
    STALE = auto()  # from the cache, old as it is, and nobody is asked
    RENEW = auto()  # from the cache, old as it is, while the origin is asked
    FETCH = auto()  # from the origin, into the cache
    HEAD = auto()  # only the origin's head, nothing to store
    PASS = auto()  # through to the origin, uncached
    PONG = auto()  # /v2/ is answered in the origin's place
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """`kind` is the request type as headers, log and metrics show it; the rest tells why it is refused."""

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
        # Whom the configuration has logins for, or shows them to.
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
        allowed = port in config.connect_ports or ANY_PORT in config.connect_ports
        if intercepts(config, host, port):
            return ConnectPlan(Decision.INTERCEPT)
        if any(rule.port == port and rule.matches(host, port) for rule in config.allow_targets):
            return ConnectPlan(Decision.TUNNEL)
        if not allowed:
            return ConnectPlan(
                Decision.REFUSE,
                f"port {port} may not be reached through this proxy (allowed: {ports}); "
                f"name it in REGISTRIES as {host}:{port}, or in REGPROXY_CONNECT_PORTS"
                " (REGPROXY_CONNECT_PORTS=* allows every port)",
            )
        return ConnectPlan(Decision.TUNNEL)

    # --- addresses ---------------------------------------------------------------------------------------

    def address_allowed(
        self, host: str, port: int, address: str, *, answered: bool = False, itself: bool = False
    ) -> bool:
        """Whether `host`, which resolved to `address`, may be connected to.

        `answered`: an origin's answer has named it, by a redirect or as the realm of tokens, and no client.
        `itself`: it is that very host, at whatever port: where its tokens or its storage often are.

        Loopback, link-local and metadata addresses are for hosts that the configuration names exactly;
        private ones too where an answer has named them, or REGPROXY_PRIVATE_TARGETS=false.
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
        # A mask of all below a domain is in its owner's hands; `reg.*` is in anybody's.
        below = (rule for rule in config.registries if rule.pattern.startswith((".", "*.")))
        return config.private_targets and any(rule.matches(host, port) for rule in below)

    def names(self, host: str, port: int) -> bool:
        """Whether REGISTRIES (no mask), REGPROXY_RESOLVE or REGPROXY_ALLOW_TARGETS has a host."""
        config = self._config
        return (
            host in config.resolve
            or any(rule.pattern == host and rule.matches(host, port) for rule in config.registries)
            or any(rule.matches(host, port) for rule in config.allow_targets)
        )

    def is_written(self, host: str) -> bool:
        """Whether the configuration has this very name, for any port: nobody else has made it up."""
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
        """Decide about one request.

        `held`: the content (of the digest, or of the tag's stored variant that suits the request) is in the
        cache. `age`: seconds since the origin confirmed that tag, inf where it has said something else since;
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
            return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", _V1)
        return _PASS[kind]

    def lifetime(self, tag: str) -> Lifetime:
        """Return how long copies of a tag are of use."""
        if not self._config.manifest_cache:
            # Asked for every time; what is stored only helps when the origin fails.
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
        """What becomes of a request whose answer nobody else may have: a tag's is passed on uncached.

        Content by digest is the same for everybody, and is asked for as ever.
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
            # A registry that said 200 to it would speak another protocol from then on.
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
        return Plan(Action.REFUSE, kind.value, 405, "UNSUPPORTED", reason)


def _login_hosts(config: Config) -> Iterator[tuple[str, int | None]]:
    for credential in config.credentials:
        yield credential.host, credential.port
    for settings in config.origin_tables.own.values():
        if settings.credentials is not None and settings.credentials.token_server is not None:
            yield settings.credentials.token_server


def _written_names(config: Config) -> Iterator[str]:
    tables = config.origin_tables.own
    yield from (rule.pattern for rule in (*config.registries, *config.allow_targets) if rule.is_exact)
    yield from (host for host, _ in tables)
    for settings in tables.values():
        yield from (mirror.host for mirror in settings.mirrors)
        if settings.address is not None:
            yield settings.address

"""Settings of each origin: how to connect to it, mirrors, timeouts, proxies."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from regproxy.config.origin_tables import Mirror, OriginSettings, Scheme, label_of
from regproxy.config.parent_proxy import ParentProxy
from regproxy.config.settings import Config
from regproxy.config.values import ANY_PORT, HostRule
from regproxy.core.addresses import as_address, is_loopback
from regproxy.http.origin import Origin

# Statuses accepted from a mirror; after any other, the next place is asked. 206 and 416 answer resumed
# fetches.
_GIVEN: Final = frozenset({200, 206, 416})


class Place(Struct, frozen=True):
    """A mirror or the origin itself. `prefix` is prepended to the registry's path.

    A mirror never gets the client's Authorization, a token request or a push.
    """

    origin: Origin
    prefix: str = ""
    mirror: bool = False

    def path(self, path: str) -> str:
        """Return the path to request here for a registry's path (and query)."""
        return self.prefix + path

    def settles(self, status: int) -> bool:
        """Return whether an answer with this status is final, instead of asking the next place."""
        return not self.mirror or status in _GIVEN


class Way(Struct, frozen=True):
    """How to connect. `host`, `port`: the target to connect to; the name in TLS is still the origin's.

    `named`: the configuration names this exact target, so any address is allowed; see names_suffice().
    `proxy`: to go through.
    """

    scheme: Scheme
    host: str
    port: int
    named: bool
    proxy: ParentProxy | None


class Origins:
    """Every origin's settings. Those of `host:port` take precedence over those of `host` (any port)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tables = config.origin_tables
        # Hosts named in the configuration (with a table, or as a mirror) are trusted targets.
        self._names = set(self._tables.own)
        for settings in self._tables.own.values():
            self._names |= {(mirror.host, mirror.port) for mirror in settings.mirrors}

    def settings(self, origin: Origin) -> OriginSettings:
        """Return an origin's settings."""
        return self._of(origin.host, origin.port)

    def ca_setting(self, origin: Origin) -> str:
        """Return what the setting is called that names a file of CAs to trust at an origin."""
        own, keys = self._tables.own, ((origin.host, origin.port), (origin.host, None))
        key = next((key for key in keys if key in own), None)
        if key is None or own[key].ca_file == self._tables.default.ca_file:
            return "REGPROXY_UPSTREAM_CA_FILE"
        return f"ca_file of [{label_of(key)}]"

    def _of(self, host: str, port: int) -> OriginSettings:
        own = self._tables.own
        return own.get((host, port)) or own.get((host, None)) or self._tables.default

    def all_settings(self) -> tuple[OriginSettings, ...]:
        """Return the default settings, then those of all origins that have their own."""
        return self._tables.default, *self._tables.own.values()

    def places(self, origin: Origin) -> tuple[Place, ...]:
        """Return the places to ask for an origin's content (GET or HEAD): its mirrors in order, then itself.

        Anything else, such as a push or a token request, may only go to the last one.
        """
        mirrors = self.settings(origin).mirrors
        return (*(self._place(mirror) for mirror in mirrors if not _is(mirror, origin)), Place(origin))

    def _place(self, mirror: Mirror) -> Place:
        origin = self.canonical(Origin(mirror.scheme, mirror.host, mirror.port))
        return Place(origin, mirror.prefix, True)

    def plain(self, origin: Origin) -> bool:
        """Return whether an origin is configured for plain HTTP: credentials and redirects may go there."""
        return self.settings(origin).scheme == "http"

    def follows_plain(self, registry: Origin, *, by_digest: bool) -> bool:
        """Whether a redirect to plain HTTP is followed; `by_digest`: that says what the content is."""
        rules = self._config.http_redirects
        if rules is None:
            return False
        return by_digest or any(rule.matches(registry.host, registry.port) for rule in rules)

    def lends(self, registry: Origin, to: Origin) -> bool:
        """Whether the login of a host may be shown to it where a registry's answer has led there.

        Clients may ask that host for the same themselves, or the settings name the very registry. Anybody may
        have one that a mask matches.
        """
        config, (host, port) = self._config, (registry.host, registry.port)
        named = any(rule.pattern == host and rule.matches(host, port) for rule in config.registries)
        return named or self._named(host, port) or intercepts(config, to.host, to.port)

    def canonical(self, origin: Origin) -> Origin:
        """Return the origin as clients know it, given one that may come from a registry behind plain HTTP.

        Such a registry gives its own URL as http://, in redirects and in the realm of a challenge.
        """
        if origin.scheme == "https":
            return origin
        known = Origin("https", origin.host, 443 if origin.port == 80 else origin.port)
        if self.plain(known):
            return known
        return Origin("https", origin.host, origin.port) if self.plain(origin) else origin

    def way(self, origin: Origin) -> Way:
        """Return how to connect to an origin."""
        settings = self.settings(origin)
        scheme: Scheme = settings.scheme or ("https" if origin.scheme == "https" else "http")
        port = settings.port or (80 if scheme == "http" and origin.port == 443 else origin.port)
        host = settings.address or origin.host
        named = self._is_trusted(settings, origin.host, origin.port)
        proxy = settings.parent_proxy
        if proxy == "inherit":
            # HTTPS_PROXY is not for plain HTTP.
            proxy = self._inherited({origin.host, host}, port) if scheme == "https" else None
        return Way(scheme, host, port, named, proxy)

    def tunnel(self, host: str, port: int) -> Way:
        """Return how to connect to a host that is not intercepted: only its network settings apply."""
        settings = self._of(host, port)
        to = settings.address or host
        named = self._is_trusted(settings, host, port)
        proxy = settings.parent_proxy
        return Way(
            "https", to, port, named, self._inherited({host, to}, port) if proxy == "inherit" else proxy
        )

    def _is_trusted(self, settings: OriginSettings, host: str, port: int) -> bool:
        """Return whether a target may be at any address, by its table or as a mirror."""
        if settings.address is not None:
            return names_suffice(self._config, settings.address)
        return self._named(host, port) and names_suffice(self._config, host)

    def _named(self, host: str, port: int) -> bool:
        return (host, port) in self._names or (host, None) in self._names

    def _inherited(self, names: set[str], port: int) -> ParentProxy | None:
        """Return the environment's proxy for a target with these names, None if it is not to be used."""
        config = self._config
        if config.parent_proxy is None:
            return None
        targets = names.union(*(config.resolve.get(name, ()) for name in names))
        # No proxy can reach this machine's loopback.
        if any(is_loopback(to) or config.no_proxy.matches(to, port) for to in targets):
            return None
        return config.parent_proxy

    @property
    def patience(self) -> float:
        """The longest time, in seconds, that asking any origin and all its mirrors may take to progress."""
        return max(self._patience(settings) for settings in self.all_settings())

    def _patience(self, settings: OriginSettings) -> float:
        mirrors = (self._of(mirror.host, mirror.port) for mirror in settings.mirrors)
        return sum(max(each.connect_timeout, each.read_timeout) for each in (settings, *mirrors))


def names_suffice(config: Config, host: str) -> bool:
    """Return whether a host that the settings name may be at any address, whatever its name stands for.

    With REGPROXY_PRIVATE_TARGETS=deny only a host that is written as an address may: whoever answers for a
    name could have it stand for any.
    """
    return config.private_targets != "deny" or as_address(host) is not None


def intercepts(config: Config, host: str, port: int, rules: tuple[HostRule, ...] | None = None) -> bool:
    """Whether a CONNECT to this is answered in its place. `rules`: other registries than REGISTRIES."""
    usual = port == 443 or not config.connect_ports.isdisjoint({port, ANY_PORT})
    rules = config.registries if rules is None else rules
    return any(rule.matches(host, port) and (rule.port is not None or usual) for rule in rules)


def serves(config: Config, host: str, port: int) -> bool:
    """Whether clients get a registry's images from the cache, by CONNECT or from the mirror."""
    return intercepts(config, host, port) or intercepts(config, host, port, config.mirrored)


def _is(mirror: Mirror, origin: Origin) -> bool:
    return not mirror.prefix and (mirror.host, mirror.port) == (origin.host, origin.port)

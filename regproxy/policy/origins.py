"""Look up the settings of each origin: how to reach it, its mirrors, timeouts and proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from regproxy.config.origin_tables import Mirror, OriginSettings, Scheme
from regproxy.config.parent_proxy import ParentProxy, is_loopback
from regproxy.config.settings import Config
from regproxy.http.origin import Origin

# The statuses that a mirror may answer with; after any other the next place is asked. 206 and 416 answer
# range requests.
_GIVEN: Final = frozenset({200, 206, 416})


@dataclass(frozen=True, slots=True)
class Place:
    """A place to ask for content. `prefix` goes before the path that the registry would be asked for.

    A mirror gets no Authorization of the client's, and is never asked for a token or given a push.
    """

    origin: Origin
    prefix: str = ""
    mirror: bool = False

    def path(self, path: str) -> str:
        """Return the path to ask for, given the registry's path (and query)."""
        return self.prefix + path

    def settles(self, status: int) -> bool:
        """Tell whether this answer is final, instead of going on to the next place."""
        return not self.mirror or status in _GIVEN


@dataclass(frozen=True, slots=True)
class Way:
    """How to make a connection. `host`, `port`: where to connect; the name in TLS is still the origin's.

    `named`: the configuration names this very target, so it may have any address. `proxy`: connect through
    it.
    """

    scheme: Scheme
    host: str
    port: int
    named: bool
    proxy: ParentProxy | None


class Origins:
    """The settings of all origins. Those of `host:port` take precedence over those of `host`, which are for
    any port.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tables = config.origin_tables
        # Hosts with a table, and mirrors, are named by the configuration and so trusted targets.
        self._names = set(self._tables.own)
        for settings in self._tables.own.values():
            self._names |= {(mirror.host, mirror.port) for mirror in settings.mirrors}

    def settings(self, origin: Origin) -> OriginSettings:
        """Return an origin's settings."""
        return self._of(origin.host, origin.port)

    def _of(self, host: str, port: int) -> OriginSettings:
        own = self._tables.own
        return own.get((host, port)) or own.get((host, None)) or self._tables.default

    def all_settings(self) -> tuple[OriginSettings, ...]:
        """Return all settings, the default first."""
        return self._tables.default, *self._tables.own.values()

    def places(self, origin: Origin) -> tuple[Place, ...]:
        """Return where to ask for an origin's content, by GET or HEAD: its mirrors in order, then itself.

        Pushes, token requests and requests for anything but content go to the last one only.
        """
        mirrors = self.settings(origin).mirrors
        return (*(self._place(mirror) for mirror in mirrors if not _is(mirror, origin)), Place(origin))

    def _place(self, mirror: Mirror) -> Place:
        origin = self.canonical(Origin(mirror.scheme, mirror.host, mirror.port))
        return Place(origin, mirror.prefix, True)

    def plain(self, origin: Origin) -> bool:
        """Tell whether an origin is configured for plain HTTP: credentials and redirects may go there."""
        return self.settings(origin).scheme == "http"

    def canonical(self, origin: Origin) -> Origin:
        """Return the origin as clients know it, for a URL that may come from a registry behind plain HTTP.

        Such a registry calls itself http:// in redirects and in the realm of a challenge.
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
        named = settings.address is not None or self._named(origin.host, origin.port)
        proxy = settings.parent_proxy
        if proxy == "inherit":
            # HTTPS_PROXY is not for plain HTTP.
            proxy = self._inherited({origin.host, host}, port) if scheme == "https" else None
        return Way(scheme, host, port, named, proxy)

    def tunnel(self, host: str, port: int) -> Way:
        """Return how to connect to a host that is not intercepted; only the network settings apply."""
        settings = self._of(host, port)
        to = settings.address or host
        named = settings.address is not None or self._named(host, port)
        proxy = settings.parent_proxy
        return Way(
            "https", to, port, named, self._inherited({host, to}, port) if proxy == "inherit" else proxy
        )

    def _named(self, host: str, port: int) -> bool:
        return (host, port) in self._names or (host, None) in self._names

    def _inherited(self, names: set[str], port: int) -> ParentProxy | None:
        """Return the environment's proxy for a target with these names."""
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
        """The longest time that an origin, mirrors included, may take to give a result, in seconds."""
        return max(self._patience(settings) for settings in self.all_settings())

    def _patience(self, settings: OriginSettings) -> float:
        mirrors = (self._of(mirror.host, mirror.port) for mirror in settings.mirrors)
        return sum(max(each.connect_timeout, each.read_timeout) for each in (settings, *mirrors))


def _is(mirror: Mirror, origin: Origin) -> bool:
    return not mirror.prefix and (mirror.host, mirror.port) == (origin.host, origin.port)

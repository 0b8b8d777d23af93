"""Decide who may have private content, and whose requests may carry the configured logins.

    shared      whoever reaches this proxy may have what it holds
    verified    content that is not known to be public is for those whom the registry itself lets in
    denied      only public content is served

Content is *known* in a repository of a registry when it was fetched from there, or when that registry says
so and nobody else's private content is at stake (see fill.provenance).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from regproxy.config.credentials import CredentialSource
from regproxy.config.origin_tables import AccessMode, OriginSettings
from regproxy.config.settings import Config
from regproxy.config.values.globs import matches_any
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins
from regproxy.policy.principals import Principal

PUBLIC_SECONDS: Final = 3600.0  # for which a repository is public after an anonymous request has worked
EVERYBODY: Final = "*"


class Access:
    """The access rules of one configuration."""

    def __init__(self, config: Config, origins: Origins) -> None:
        self._origins = origins
        everyone = origins.all_settings()
        # Whether something in the cache may be kept from someone.
        self.guarded: Final = any(mode_of(settings) != "shared" for settings in everyone)
        self.restricted: Final = self.guarded or any(_has_list(settings) for settings in everyone)
        self.ttl: Final = config.access_ttl
        self.grace: Final = config.access_grace
        self.outage: Final = config.access_outage

    def mode(self, origin: Origin) -> AccessMode:
        """Return the access mode of a registry."""
        return mode_of(self._origins.settings(origin))

    def is_shared(self, host: str, port: int) -> bool:
        """Return whether a registry's content is for everybody."""
        return self.mode(Origin("https", host, port)) == "shared"

    def is_named(self, principal: Principal, origin: Origin, repository: str) -> bool:
        """Return whether a registry's login is meant for this client in this repository ("": its ping).

        Only where the settings say so by name.
        """
        source = self._origins.settings(origin).credentials
        return source is not None and is_listed(source) and _is_for(source, principal, repository)

    def withholds(self, principal: Principal, origin: Origin, repository: str) -> bool:
        """Return whether a host's login has a list that does not name this client in this repository."""
        source = self._origins.settings(origin).credentials
        return source is not None and is_listed(source) and not _is_for(source, principal, repository)

    def lends(
        self, principal: Principal, origin: Origin, repository: str, public: Callable[[], bool]
    ) -> bool:
        """Return whether a registry's login may go with a client's request.

        `public`: tells whether the repository is known to be public.
        """
        settings = self._origins.settings(origin)
        if mode_of(settings) == "denied" and not public():
            return False
        if settings.credentials is not None and is_listed(settings.credentials):
            return _is_for(settings.credentials, principal, repository)
        return mode_of(settings) == "shared" or public()


def mode_of(settings: OriginSettings) -> AccessMode:
    """Return a registry's access mode: a login that is for some clients alone keeps its content from others,
    unless the settings say otherwise.
    """
    if settings.access is not None:
        return settings.access
    return "verified" if _has_list(settings) else "shared"


def is_listed(source: CredentialSource) -> bool:
    """Return whether a login is for some clients or repositories alone."""
    return source.principals is not None or bool(source.repositories)


def _has_list(settings: OriginSettings) -> bool:
    return settings.credentials is not None and is_listed(settings.credentials)


def _is_for(source: CredentialSource, principal: Principal, repository: str) -> bool:
    names = source.principals
    if names is not None and EVERYBODY not in names and (not principal.name or principal.name not in names):
        return False
    if not source.repositories:
        return True
    return bool(repository) and matches_any(source.repositories, repository)

"""Remember how registries ask for credentials: what their challenges (RFC 9110 11.3) have said."""

from __future__ import annotations

import logging
from typing import Final, Literal

from msgspec.structs import replace

from regproxy.core.errors import BadResponse
from regproxy.core.lru import Bounded
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.policy.lending import cut_scopes
from regproxy.policy.origins import Origins
from regproxy.registry.challenges import Bearer, asks_for_basic, bearer_of, parse_challenges
from regproxy.registry.targets import Target
from regproxy.registry.token_protocol import Realm, parse_realm, parse_scope

log = logging.getLogger(__name__)

SCOPES_KEPT: Final = 4096  # registries and repositories whose challenge is remembered

# The realm that issues tokens, or "basic": a username and password are sent to the registry itself.
Asks = Realm | Literal["basic"]


class ChallengeMemory:
    """The challenges of all registries. One per worker."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        # By registry and repository, and by registry alone ("") with what was learned last.
        self._asks: Bounded[tuple[Origin, str], Asks] = Bounded(SCOPES_KEPT)
        self._scopes: Bounded[tuple[Origin, str], tuple[str, ...]] = Bounded(SCOPES_KEPT)

    def asks_by(self, origin: Origin, repository: str = "") -> Asks | None:
        """Return how a registry asks for credentials; some name a different realm for each repository."""
        return self._asks.get((origin, repository)) or self._asks.get((origin, ""))

    def put(self, origin: Origin, target: Target, asks: Asks) -> None:
        """Remember how a registry asks for credentials, here and where nothing else is known."""
        for repository in {target.repository, ""}:
            self._asks.put((origin, repository), asks)

    def learn(self, origin: Origin, target: Target, response: Response) -> None:
        """Remember how a registry asks for credentials; Bearer is preferred to Basic."""
        challenges = parse_challenges(response.all(b"www-authenticate"))
        bearer = bearer_of(challenges)
        if bearer is not None:
            try:
                self.put(origin, target, self._realm(bearer))
            except BadResponse as error:
                log.warning("%s asks for tokens in a way that can't be followed: %s", origin.host, error)
            else:
                if bearer.scope:
                    self._scopes.put((origin, target.repository), parse_scope(bearer.scope))
                return
        if asks_for_basic(challenges):
            self.put(origin, target, "basic")

    def realm_of(self, response: Response) -> Realm | None:
        """Return the realm that a 401 names; None: it names none, or one that can't be asked."""
        bearer = bearer_of(parse_challenges(response.all(b"www-authenticate")))
        if bearer is None:
            return None
        try:
            return self._realm(bearer)
        except BadResponse:
            return None

    def scopes(
        self, origin: Origin, target: Target, *, narrow: bool = False, anonymous: bool = False
    ) -> tuple[str, ...]:
        """Return the scopes of a token: those of the registry's challenge, else one built from the
        repository's name.

        Only pulls, whatever the challenge says: it may have answered a push. Scopes other than a repository's
        are for anonymous tokens only, as it is unknown what they permit.
        """
        said = () if narrow else self._scopes.get((origin, target.repository)) or ()
        cut = cut_scopes(said)
        if anonymous:
            others = (scope for scope in said if not scope.startswith("repository:"))
            cut = tuple(dict.fromkeys((*cut, *others)))
        if cut:
            return cut
        return (f"repository:{target.repository}:pull",) if target.repository else ()

    def _realm(self, bearer: Bearer) -> Realm:
        """Return the realm that a challenge names. Raises BadResponse if it can't be asked."""
        realm = parse_realm(bearer.realm, bearer.service)
        # A registry behind plain HTTP calls itself http://, whatever clients call it.
        return replace(realm, origin=self._origins.canonical(realm.origin))

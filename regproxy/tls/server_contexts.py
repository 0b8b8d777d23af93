"""Keep a TLS context for each intercepted host, made from its leaf and kept as long as the leaf is."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError, RegproxyError
from regproxy.core.lru import Seldom
from regproxy.dataplane.tls_contexts import GROUPS, Context, naming_context, server_context, takes_groups
from regproxy.tls.authority import Authority, Leaf

log = logging.getLogger(__name__)

CONTEXTS_MAX: Final = 1024


def check_groups(config: Config) -> None:
    """Raise ConfigError if OpenSSL has not all of the groups that are configured."""
    if config.tls_groups and not takes_groups(config.tls_groups):
        want = f"OpenSSL has not all of these groups here; without the setting it is {GROUPS}"
        raise ConfigError("REGPROXY_TLS_GROUPS", config.tls_groups, want)


class Contexts:
    """Server contexts by host; the least recently used goes first. `groups`: see takes_groups()."""

    def __init__(
        self, authority: Authority, *, ktls: bool = False, seals: bool = False, groups: str = ""
    ) -> None:
        self._authority = authority
        self._ktls = ktls
        self._seals = seals
        self._groups = groups
        self._seldom = Seldom()
        self._known: OrderedDict[str, tuple[Leaf, Context]] = OrderedDict()

    def for_host(self, host: str) -> Context:
        """Return the context that presents `host`'s leaf. Raises CertificateError as `Authority.leaf`
        does.
        """
        leaf = self._authority.leaf(host)
        known = self._known.get(host)
        if known is not None and known[0] is leaf:
            self._known.move_to_end(host)
            return known[1]
        context = server_context(leaf.chain_pem, leaf.key_pem, self._ktls, self._seals, self._groups)
        self._known[host] = leaf, context
        if len(self._known) > CONTEXTS_MAX:
            self._known.popitem(last=False)
        return context

    def say(self, host: str, error: RegproxyError) -> None:
        """Log why there is no certificate, once a minute for each host: clients try again and again."""
        if self._seldom.lets(host, time.monotonic()):
            log.warning("no certificate for %s: %s", host, error)

    def given(self, chain_pem: bytes, key_pem: bytes) -> Context:
        """Return a context that presents a certificate of the operator's. Raises ValueError."""
        return server_context(chain_pem, key_pem, self._ktls, self._seals, self._groups)

    def by_name(self, is_ours: Callable[[str], bool], unnamed: str = "") -> Context:
        """A context that presents the leaf of the host that a ClientHello names, if `is_ours` takes it.

        `unnamed`: the host for a ClientHello that names none, as those to addresses; "": it is refused.
        """

        def choose(name: str) -> Context | None:
            host = name.lower().removesuffix(".") or unnamed
            try:
                return self.for_host(host) if is_ours(host) else None
            except RegproxyError as error:
                self.say(host, error)
                return None

        return naming_context(choose, self._ktls, self._seals, self._groups)

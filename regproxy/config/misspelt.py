"""Find the name that somebody meant: of a key in a table, or of a variable of the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

PREFIX = "REGPROXY_"
_NEAR_KEY = 0.6  # of 1, as difflib counts; names of keys are short, and all of a table are ours
_NEAR_SETTING = 0.7
_NEAR_INHERITED = 0.88  # a letter or two: most variables of an environment are other programs'
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{7,63}")
# Of other programs, and near enough to be taken for ours.
_OTHERS = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_VERIFY", "VERIFY_TLS"})
# Set by Kubernetes in every pod beside a Service named regproxy.
_SERVICE_LINK = re.compile(
    r"REGPROXY_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_[0-9]+_(?:TCP|UDP)\w*)"
)


def key_hint(key: str, keys: Iterable[str], *, lists: bool = True) -> str:
    """Return "; did you mean X?" for the nearest key of a table, else which there are; "" if not `lists`."""
    known = list(keys)
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=_NEAR_KEY)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}" if lists else ""


def setting_hint(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the nearest of the known names, or "". The prefix need not be right."""
    names = {each.lower(): each for each in known}
    word = name.lower()
    bare = word.removeprefix(PREFIX.lower())
    near = [bare] if bare in names else difflib.get_close_matches(word, sorted(names), 1, _NEAR_SETTING)
    return f"; did you mean {names[near[0]]}?" if near else ""


def unread(variables: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the variables of an environment that are meant for the proxy, and that it does not read.

    Those are all that have its prefix, and those that are nearly named like one of docker-registry-proxy's,
    which have none.
    """
    known = frozenset(known)
    inherited = [name for name in known if not name.startswith(PREFIX)]
    others = sorted(frozenset(variables) - known)
    own = [name for name in others if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name)]
    return own + [name for name in others if _is_nearly(name, inherited)]


def _is_nearly(name: str, inherited: list[str]) -> bool:
    if name.startswith(PREFIX) or name in _OTHERS or not _VARIABLE.fullmatch(name):
        return False
    return bool(difflib.get_close_matches(name, inherited, 1, _NEAR_INHERITED))

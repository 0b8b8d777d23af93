"""Parse WWW-Authenticate challenges (RFC 9110 11.6.1), and the Bearer challenge of registries.

Servers write this field in many ways, so parsing never fails: what can't be parsed is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

CHALLENGES_MAX: Final = 16
PARAMETERS_MAX: Final = 32  # of one challenge

_SKIP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
# May stand in place of parameters, up to its end: `Negotiate YWJj=`.
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|\Z)")
# A value that should have been quoted, such as `realm=https://auth.example/token`.
_BARE = re.compile(r'[^ \t,"]+')


class Challenge(Struct, frozen=True):
    """One challenge: scheme and parameter names in lower case, with either parameters or a `token68`."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()
    token68: str = ""

    def get(self, name: str) -> str | None:
        """Return the first parameter of that name (lower case), None if there is none."""
        return next((value for known, value in self.parameters if known == name), None)


class Bearer(Struct, frozen=True):
    """A Bearer challenge: the token server's realm, and what tokens are for (distribution spec, "Token
    authentication").
    """

    realm: str
    service: str = ""
    scope: str = ""
    error: str = ""


def parse_challenges(values: Iterable[bytes]) -> tuple[Challenge, ...]:
    """Return the challenges of the WWW-Authenticate lines `values`, in their order."""
    found: list[Challenge] = []
    for value in values:
        _parse(value.decode("latin-1"), found)
    return tuple(found[:CHALLENGES_MAX])


def _parse(text: str, found: list[Challenge]) -> None:
    """Append the challenges of one line. A comma separates both challenges and parameters."""
    position, within = 0, False
    while position < len(text) and len(found) <= CHALLENGES_MAX:
        position = _end(_SKIP, text, position)
        name = _TOKEN.match(text, position)
        if name is None:
            position = _resume(text, position)
            continue
        parameter = _parameter(text, name.end())
        if parameter is not None:
            value, position = parameter
            if within:
                found[-1] = _with(found[-1], name[0].lower(), value)
            continue
        scheme, position, within = name[0].lower(), name.end(), True
        token68 = _TOKEN68.match(text, position)
        # A scheme of one word, `Bearer, Basic realm=x`, and one with parameters go on in the next round.
        if token68 is not None:
            position = token68.end()
        found.append(Challenge(scheme, token68=token68[1] if token68 is not None else ""))


def _parameter(text: str, position: int) -> tuple[str, int] | None:
    """Return a parameter's value after its name, and where it ends; None if no `=value` follows."""
    equals = _EQUALS.match(text, position)
    if equals is None:
        return None
    quoted = _QUOTED.match(text, equals.end())
    if quoted is not None:
        return _PAIR.sub(r"\1", quoted[1]), quoted.end()
    bare = _BARE.match(text, equals.end())
    if bare is not None:
        return bare[0], bare.end()
    # An empty value, or a quoted one without its end, after which nothing can be parsed.
    end = len(text) if text.startswith('"', equals.end()) else equals.end()
    return "", end


def _with(challenge: Challenge, name: str, value: str) -> Challenge:
    if len(challenge.parameters) >= PARAMETERS_MAX:
        return challenge
    return Challenge(challenge.scheme, (*challenge.parameters, (name, value)), challenge.token68)


def _resume(text: str, position: int) -> int:
    """Return where the next list member may begin, after text that can't be parsed."""
    quoted = _QUOTED.match(text, position)
    comma = text.find(",", quoted.end() if quoted is not None else position)
    return len(text) if comma < 0 else comma


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def bearer_of(challenges: Iterable[Challenge]) -> Bearer | None:
    """Return the first Bearer challenge that names a realm, None if there is none."""
    for challenge in challenges:
        realm = challenge.get("realm")
        if challenge.scheme == "bearer" and realm:
            words = (challenge.get(name) or "" for name in ("service", "scope", "error"))
            return Bearer(realm, *words)
    return None


def asks_for_basic(challenges: Iterable[Challenge]) -> bool:
    """Tell whether a username and password are accepted."""
    return any(challenge.scheme == "basic" for challenge in challenges)

"""Parse the TOML file's [[rule]] tables: which images clients may pull and push."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from regproxy.config.hosts import DOCKER_HUB_NAMES, DOCKER_HUB_REGISTRY
from regproxy.config.misspelt import key_hint
from regproxy.config.values.globs import parse_glob
from regproxy.config.values.host_rules import parse_host, split_host_port
from regproxy.config.values.numbers import parse_positive_time
from regproxy.core.errors import ConfigError

RuleAction = Literal["allow", "deny", "warn", "hold"]
Direction = Literal["pull", "push"]
FirstSight = Literal["allow", "deny"]
OnError = Literal["allow", "deny"]

RULES_MAX: Final = 1000
ANONYMOUS_WORD: Final = "anonymous"  # as a principal: a client that is not known by name

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+@-]{0,63}")
_HOST_GLOB: Final = re.compile(r"[A-Za-z0-9*?._-]+(?::[0-9]{1,5})?")
_TAG_GLOB: Final = re.compile(r"[A-Za-z0-9_.*?-]+")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_GLOB: Final = re.compile(r"[a-z0-9!#$&^_.+*?-]+/[a-z0-9!#$&^_.+*?-]+|\*")
_TEXT_MAX: Final = 500  # characters of a message: it goes into a header field, too
_KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Rule(Struct, frozen=True):
    """One rule. Times are seconds; an empty tuple of a condition: it is for all.

    `registry`, `repository`, `tag`, `media_type`, `principal`: globs; `digest`: digests. These say what the
    rule is for. `digest_only`, `min_tag_age`, `signed` (names of keys) and `verdict` (a URL or a path) say
    what it asks for: `action` is what becomes of what does not have that.

    `first_sight`: whether the first digest that is seen under a tag counts as old enough; `at_once`: digests
    that always do. `on_error`: what becomes of an image whose verdict can't be had.
    """

    name: str
    action: RuleAction
    on: tuple[Direction, ...] = ("pull",)
    registry: tuple[str, ...] = ()
    repository: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    digest: tuple[str, ...] = ()
    media_type: tuple[str, ...] = ()
    principal: tuple[str, ...] = ()
    digest_only: bool = False
    min_tag_age: float = 0.0
    first_sight: FirstSight = "allow"
    at_once: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    verdict: str = ""
    verdict_timeout: float = 5.0
    verdict_ttl: float = 600.0
    on_error: OnError = "deny"
    dry_run: bool = False
    message: str = ""

    @property
    def asks(self) -> bool:
        """Whether it asks for something, so that what has that is let through."""
        return bool(self.digest_only or self.min_tag_age or self.signed or self.verdict)

    @property
    def is_for_everything(self) -> bool:
        """Whether it has no condition, so that no rule behind it is ever reached, if it decides."""
        places = (self.registry, self.repository)
        narrow = self.tag or self.digest or self.media_type or self.principal
        return not narrow and all(not globs or set(globs) & {"*", "**"} for globs in places)


class RuleSet(Struct, frozen=True):
    """All rules, in their order. `shown`: (name, text) of what was set; `warnings`: what looks wrong."""

    rules: tuple[Rule, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


# Parsers of one value; ValueError says what would be right.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value.strip()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise ValueError("a string, or an array of strings")
    if not value:
        raise ValueError("at least one; leave it out where the rule is for all")
    return [entry.strip() for entry in value]


def _word(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(f'"{word}"' for word in words))
        return str(value)

    return parse


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('a time such as "3d" or "12h"')
    return parse_positive_time(str(value).strip())


def _name(value: Any) -> str:
    text = _text(value)
    if not _NAME.fullmatch(text):
        raise ValueError("a name of up to 64 letters, digits, spaces and ._/:+@-")
    return text


def _many(check: Callable[[str], str]) -> Callable[[Any], tuple[str, ...]]:
    return lambda value: tuple(dict.fromkeys(check(entry) for entry in _texts(value)))


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not {wanted}")
        return text

    return check


def _registry(text: str) -> str:
    if not _HOST_GLOB.fullmatch(text):
        raise ValueError(f"{text!r} is not a host such as ghcr.io, *.example.com or registry.example:5000")
    lowered = text.lower()
    if lowered in DOCKER_HUB_NAMES:
        return DOCKER_HUB_REGISTRY
    if "*" in lowered or "?" in lowered:
        return lowered
    host, port = split_host_port(lowered)
    return parse_host(host) if port is None else f"{parse_host(host)}:{port}"


def _principal(text: str) -> str:
    if not text.isprintable() or len(text) > 256:
        raise ValueError(f"{text!r} is not a principal's name")
    return text


def _directions(value: Any) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_texts(value)))
    if not set(found) <= {"pull", "push"}:
        raise ValueError('"pull", "push", or both in an array')
    return found


def _message(value: Any) -> str:
    text = _text(value)
    if len(text) > _TEXT_MAX or not text.isprintable():
        raise ValueError(f"one line of up to {_TEXT_MAX} printable characters")
    return text


def _verdict(value: Any) -> str:
    text = _text(value)
    if not text or not text.isprintable():
        raise ValueError("a URL such as http://127.0.0.1:9000/verdict, or a file's path")
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.fragment or parts.username is not None or " " in text or not text.isascii():
        raise ValueError("a URL such as http://127.0.0.1:9000/verdict, without user and password")
    return text


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": _name,
    "action": _word("allow", "deny", "warn", "hold"),
    "on": _directions,
    "registry": _many(_registry),
    "repository": _many(parse_glob),
    "tag": _many(_matching(_TAG_GLOB, "a tag, with * and ? for any characters")),
    "digest": _many(_matching(_DIGEST, "sha256: and 64 hex digits")),
    "media_type": _many(_matching(_MEDIA_GLOB, "a media type in lower case, with * for any characters")),
    "principal": _many(_principal),
    "digest_only": _truth,
    "min_tag_age": _time,
    "first_sight": _word("allow", "deny"),
    "at_once": _many(_matching(_DIGEST, "sha256: and 64 hex digits")),
    "signed": _many(_matching(_KEY_NAME, "the name of a [key.NAME] table")),
    "verdict": _verdict,
    "verdict_timeout": _time,
    "verdict_ttl": _time,
    "on_error": _word("allow", "deny"),
    "dry_run": _truth,
    "message": _message,
}
KEYS: Final = tuple(_PARSERS)
# Settings that say how another one is meant.
_BELONGS: Final = {
    "first_sight": "min_tag_age",
    "at_once": "min_tag_age",
    "verdict_timeout": "verdict",
    "verdict_ttl": "verdict",
    "on_error": "verdict",
}
# What is known of content that is there already, and not while it is pushed.
_OF_PULLS: Final = ("media_type", "digest_only", "min_tag_age", "signed", "verdict")


# The tables.


def parse_rules(raw: Any, file: str, errors: list[ConfigError]) -> RuleSet:
    """Return the [[rule]] tables of a TOML file; errors are added to `errors`."""
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
        errors.append(ConfigError(f"{file}: rule", None, "tables, each headed by [[rule]]"))
        return RuleSet()
    if len(raw) > RULES_MAX:
        errors.append(ConfigError(f"{file}: rule", None, f"at most {RULES_MAX} rules, not {len(raw)}"))
        return RuleSet()
    rules: list[Rule] = []
    shown: list[tuple[str, str]] = []
    for number, table in enumerate(raw, 1):
        found: list[tuple[str, str]] = []
        values = _values(table, found)
        found += _complaints(table, values, {rule.name for rule in rules})
        label = f"rule {number}"
        errors += [ConfigError(f"{file}: {label}{key}", None, text) for key, text in found]
        if not found:
            rule = Rule(**{"name": label, **values})
            rules.append(rule)
            shown += [(f"rule.{rule.name}.{key}", _shown(table[key])) for key in KEYS if key in table]
    return RuleSet(tuple(rules), tuple(shown), tuple(f"{file}: {text}" for text in _doubts(rules)))


def unknown_keys(rules: Iterable[Rule], known: Iterable[str]) -> list[tuple[str, str]]:
    """Return (rule, key) for each key that a rule wants a signature of, and that there is no table of."""
    names = set(known)
    return [(rule.name, key) for rule in rules for key in rule.signed if key not in names]


def _values(table: Mapping[str, Any], found: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a table's values; errors are added to `found`, as (".key", text)."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        parse = _PARSERS.get(key)
        if parse is None:
            found.append((f".{key}", f"no such setting of a rule{key_hint(key, KEYS)}"))
            continue
        try:
            values[key] = parse(value)
        except ValueError as error:
            found.append((f".{key}", str(error)))
    return values


def _complaints(
    table: Mapping[str, Any], values: Mapping[str, Any], names: set[str]
) -> Iterable[tuple[str, str]]:
    """Yield errors in settings that are missing, or don't go together."""
    if "action" not in table:
        yield "", 'action = "allow", "deny", "warn" or "hold" is missing'
    if values.get("name") in names:
        yield ".name", f"{values['name']!r} is another rule's name"
    for key, other in _BELONGS.items():
        if key in table and other not in table:
            yield f".{key}", f"it says how {other} is meant, and there is none"
    if "push" in values.get("on", ()):
        for key in _OF_PULLS:
            if key in table:
                yield f".{key}", 'only for pulls: a rule on = "push" can\'t have it'


def _doubts(rules: list[Rule]) -> Iterable[str]:
    """Yield what is no error, and hardly meant."""
    ended: dict[Direction, str] = {}
    for rule in rules:
        if all(direction in ended for direction in rule.on):
            yield f"{rule.name} is never reached: {ended[rule.on[0]]} is for everything"
        if rule.is_for_everything and not rule.dry_run and not (rule.action == "allow" and rule.asks):
            for direction in rule.on:
                ended.setdefault(direction, rule.name)
        if rule.action == "allow" and rule.message:
            yield f"{rule.name}: its message is never shown: it only allows"
        if rule.tag and rule.digest_only:
            yield f"{rule.name}: digest_only with tag refuses those tags: action alone does that"


def _shown(raw: Any) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return " ".join(map(str, raw)) if isinstance(raw, list) else str(raw)

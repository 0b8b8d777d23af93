"""Parse settings as docker-registry-proxy, and other programs that read the same variable, parse them.

An environment that starts docker-registry-proxy must start this proxy. A value that it accepted, and that
has no meaning or another one here, becomes a Noted value: what is used instead, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from msgspec import Struct

from regproxy.config.parent_proxy import (
    NoProxy,
    ParentProxy,
    UnusableProxy,
    parse_parent_proxy,
    read_no_proxy,
)
from regproxy.config.values.host_regex import compile_host_regex
from regproxy.config.values.host_rules import HostRule, parse_rule
from regproxy.config.values.lists import Raw
from regproxy.config.values.login_entries import Credential, parse_credentials, split_entries
from regproxy.config.values.numbers import parse_positive_time, parse_size, parse_time
from regproxy.config.values.words import parse_optional_path

_OFF = frozenset({"false", "0", "no", "off"})
_STATUS = re.compile(r"any|[1-5][0-9]{2}")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_WORD = re.compile(r""" "[^"]*" | '[^']*' | \S+ """, re.VERBOSE)


class Noted(Struct, frozen=True):
    """A value, and warnings about how it was read. They never hold the text itself, which may be a secret.

    `read_as`: the text that would be read so without a warning, "" where that is as good as the one given.
    """

    value: Any
    notes: tuple[str, ...]
    read_as: str = ""


def parse_switch(raw: Raw) -> bool | Noted:
    """Return True for exactly `true`, False for anything else."""
    text = cast(str, raw)
    if text == "true" or text.strip().lower() in _OFF:
        return text == "true"
    note = "read as false, as docker-registry-proxy does: only true, just so, is true"
    return Noted(False, (note,), "false")


def parse_verify(raw: Raw) -> bool | Noted:
    """Return VERIFY_SSL: False for a word that means it, True for anything else.

    docker-registry-proxy reads `1` or `yes` as false, and verifies nothing then, which nobody can want.
    """
    text = cast(str, raw)
    if text == "true" or text.strip().lower() in _OFF:
        return text == "true"
    note = "read as true: certificates are verified; only false, 0, no and off are false"
    return Noted(True, (note,), "true")


def _unquoted(text: str) -> str:
    """Return a value without blanks and the quotes around it: Compose lists and --env-file keep them."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def parse_quoted(raw: Raw) -> str:
    """Return a text without blanks and quotes around it: no tag and no file is named with both."""
    return _unquoted(raw if isinstance(raw, str) else " ".join(raw))


def parse_delimiter(raw: Raw) -> str:
    """Return a delimiter without the quotes around it, which may be a blank."""
    text = cast(str, raw)
    quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def parse_inactive(raw: Raw) -> float:
    """Return the seconds of CACHE_INACTIVE. Raises ValueError."""
    return parse_time(parse_quoted(raw))


def parse_ca_file(raw: Raw) -> str | None:
    """Return the path of CA_KEY_FILE or CA_CRT_FILE, None for none. Raises ValueError."""
    return parse_optional_path(parse_quoted(raw))


def _nginx_words(raw: Raw) -> list[str]:
    """Return the arguments of a directive in nginx's configuration, without their quotes."""
    return [_unquoted(word) for word in _WORD.findall(cast(str, raw))]


def parse_timeout(raw: Raw) -> float | Noted:
    """Return seconds, above 0: nginx's default of 60 in place of 0. Raises ValueError for what is no time."""
    text = _unquoted(cast(str, raw))
    try:
        return parse_positive_time(text)
    except ValueError:
        if parse_time(text):
            raise
    return Noted(60.0, ("read as 60s: with 0 every operation would fail at once",), "60s")


def parse_keepalive(raw: Raw) -> float | Noted:
    """Return seconds. nginx accepts a second time, for its Keep-Alive field. Raises ValueError."""
    words = _nginx_words(raw)
    if len(words) != 2:
        return parse_time(_unquoted(cast(str, raw)))
    seconds, _ = map(parse_time, words)
    note = f"read as {words[0]}: the second time, nginx's Keep-Alive field, has no effect"
    return Noted(seconds, (note,), words[0])


def parse_tier_time(raw: Raw) -> float | Noted:
    """Return seconds. nginx's proxy_cache_valid accepts statuses ahead of the time. Raises ValueError."""
    *statuses, last = _nginx_words(raw) or [""]
    if statuses and all(_STATUS.fullmatch(word) for word in statuses):
        return Noted(parse_time(last), (f"read as {last}: statuses have no effect",), last)
    return parse_time(_unquoted(cast(str, raw)))


def parse_cache_size(raw: Raw) -> int | Noted:
    """Return bytes. nginx's proxy_cache_path, where the text ends up, takes more parameters."""
    text = _unquoted(cast(str, raw))
    size, *more = text.split() or [""]
    if more and all("=" in word for word in more):
        note = f"read as {size}: other parameters of nginx's have no effect"
        return Noted(parse_size(size), (note,), size)
    return parse_size(text)


def parse_serial_file(raw: Raw) -> Noted | None:
    """Return None, with a warning if CA_SRL_FILE is set."""
    return Noted(None, ("has no effect: serial numbers are random",)) if raw else None


def parse_https_proxy(raw: Raw) -> ParentProxy | Noted | None:
    """Return the ParentProxy of HTTPS_PROXY, which docker-registry-proxy ignores.

    A proxy of a kind that can't be used is None, with a warning; what follows host:port is ignored, with a
    warning. Raises ValueError for what is no proxy.
    """
    text = _unquoted(cast(str, raw))
    try:
        return parse_parent_proxy(text)
    except UnusableProxy as error:
        return Noted(None, (f"not used, registries are reached directly: {error}",), "not used")
    except ValueError:
        scheme, slashes, rest = text.rpartition("://")
        host = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if host == rest:
            raise
        proxy = parse_parent_proxy(f"{scheme}{slashes}{host}")
    return Noted(proxy, ("read without what stands behind host:port",))


def parse_no_proxy(raw: Raw) -> NoProxy | Noted:
    """Return the NoProxy of NO_PROXY, without entries that can't match anything."""
    no_proxy, notes = read_no_proxy(raw)
    return Noted(no_proxy, tuple(f"{note}; left out" for note in notes)) if notes else no_proxy


def parse_registries(raw: Raw) -> tuple[HostRule, ...] | Noted:
    """Return the HostRules of REGISTRIES, each once: hosts, masks, and regular expressions after a `~`.

    Raises ValueError for a mask that nginx refuses too. What else can't be a host is left out, with a
    warning: all that is lost is that it is not intercepted.
    """
    rules: list[HostRule] = []
    notes: list[str] = []
    for word in _registry_words(raw):
        try:
            rule = _registry(word)
        except ValueError as error:
            if _nginx_refuses(word):
                raise ValueError(f"{word!r} is not {error}") from None
            notes.append(f"{word!r} is not {error}; left out")
            continue
        rules.append(rule)
        if ("/" in word or "@" in word) and not word.startswith("~"):
            notes.append(f"{word!r} is read as {rule}")
    found = tuple(dict.fromkeys(rules))
    return Noted(found, tuple(notes), " ".join(map(str, found)) or "none") if notes else found


def _registry_words(raw: Raw) -> Iterator[str]:
    """Yield the entries, which blanks or commas separate; a regular expression may have commas in it."""
    if not isinstance(raw, str):
        yield from map(str.strip, raw)
        return
    for quoted in raw.split():
        word = quoted.strip("\"'")
        plain, tilde, regex = ("", "~", word[1:]) if word.startswith("~") else word.partition(",~")
        yield from plain.replace(",", " ").split()
        if tilde:
            yield "~" + regex


def _registry(word: str) -> HostRule:
    if word.startswith("~"):
        compile_host_regex(word)
        return HostRule(word)
    return parse_rule(_SCHEME.sub("", word, count=1).partition("/")[0].rpartition("@")[2])


def read_logins(raw: Raw, outer: str, inner: str) -> tuple[tuple[Credential, ...], list[str]]:
    """Return the pairs of AUTH_REGISTRIES, and what is to be said, without a part of them.

    `https://` ahead of a host is forgiven. What can't be a host is left out, as nginx matches nothing by it;
    a mask that nginx refuses is an error, as is an entry that lacks a part. Raises ValueError.
    """
    notes: list[str] = []
    entries = list(split_entries(_unquoted(raw) if isinstance(raw, str) else raw, outer))
    for number, entry in enumerate(entries, 1):
        entries[number - 1] = bare = _SCHEME.sub("", entry, count=1)
        if bare != entry:
            notes.append(f"entry {number} of {len(entries)} is read without https://")
    credentials, doubts = parse_credentials(tuple(entries), outer, inner, _login_host)
    return credentials, notes + doubts


def _login_host(text: str) -> HostRule | None:
    """Return the HostRule of an entry's host; None for what matches no host."""
    try:
        if text.startswith("~"):
            compile_host_regex(text)
            return HostRule(text)
        return parse_rule(text.removesuffix("/"))
    except ValueError:
        if _nginx_refuses(text):
            raise
        return None


def _nginx_refuses(mask: str) -> bool:
    """Tell whether nginx ends its start at a mask (ngx_hash_add_key()); what it takes else matches nobody."""
    if mask.startswith("~") or "*" not in mask:
        return False
    wild = len(mask) > 2 and (mask.startswith("*.") or mask.endswith(".*"))
    return mask.count("*") > 1 or not (wild or mask.startswith("."))


def _is_anybodys(pattern: str) -> bool:
    """Tell whether a mask or an expression takes names below any domain."""
    return pattern.endswith(".*") or pattern.startswith("~")


def spread_masks(
    credentials: Sequence[Credential], registries: Sequence[HostRule]
) -> tuple[tuple[Credential, ...], list[str]]:
    """Return AUTH_REGISTRIES' pairs with masks such as `reg.*` replaced by hosts, and warnings about these.

    `*.example.com` is in the hands of a domain's owner, but anybody can have a name that begins with `reg.`,
    or that a regular expression takes: such a pair is for those hosts alone that REGISTRIES names exactly.
    """
    exact = [rule.pattern for rule in registries if rule.is_exact]
    found: dict[tuple[str, int | None], Credential] = {}
    notes: list[str] = []
    for pair in credentials:
        if not _is_anybodys(pair.host):
            found[pair.host, pair.port] = pair
    for number, pair in enumerate(credentials, 1):
        if _is_anybodys(pair.host):
            rule = HostRule(pair.host)
            hosts = [host for host in exact if rule.matches(host, 443)]
            for host in hosts:
                found.setdefault((host, pair.port), replace(pair, host=host))
            told = f"used for {' '.join(hosts)} alone" if hosts else "not used"
            notes.append(
                f"the mask of entry {number} is {told}: its star is at the end, or it is an expression, and"
                " anybody may have such a name; REGISTRIES has to name the host itself"
            )
    return tuple(found.values()), notes

"""Assemble the configuration of what the environment, the TOML file and the defaults say, and check it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from regproxy.config.drop_in import Noted, read_logins, spread_masks
from regproxy.config.faults import ConfigErrors
from regproxy.config.image_rules import parse_rules as parse_image_rules
from regproxy.config.image_rules import unknown_keys
from regproxy.config.misspelt import PREFIX, setting_hint, unread
from regproxy.config.origin_tables import OriginSettings, parse_tables
from regproxy.config.parent_proxy import is_own
from regproxy.config.principal_tables import parse_principals
from regproxy.config.settings import ALWAYS_INTERCEPTED, SETTINGS, Config, Setting, ValueSource
from regproxy.config.signing_keys import parse_key_tables, shown_keys
from regproxy.config.sources.given import Given, printable
from regproxy.config.sources.toml_file import TomlFile, read_toml
from regproxy.config.sources.without_effect import without_effect
from regproxy.config.tag_tiers import Matcher, Tier, TierName, compile_tier
from regproxy.config.values.login_entries import Credential
from regproxy.config.values.pcre import nginx_unescaped
from regproxy.core.errors import ConfigError

# Not read by load(): the path of the TOML file, and the switch of a debug build.
_READ_ELSEWHERE = frozenset({"REGPROXY_CONFIG", "REGPROXY_DEBUG"})
# Most programs know these in lower case.
_LOWER_CASE_TOO = frozenset({"HTTPS_PROXY", "NO_PROXY"})
_DEBUG_COST = (
    "has mitmweb take part: all of that traffic is slow, and whoever has its page's password can read it"
    " and do what this proxy can; not for everyday use"
)
_PUSHES = (
    "ALLOW_PUSH is on and credentials are configured: every client can push and delete with them"
    " (REGPROXY_LOGIN_FOR=pull keeps them to pulls)"
)
_TLS_PAIR = ("REGPROXY_TLS_CERT_FILE", "REGPROXY_TLS_KEY_FILE")


def load(env: Mapping[str, str], toml_text: str | None = None, toml_name: str = "") -> Config:
    """Return the Config of the environment and the text of a TOML file.

    `toml_name` is the file's name in error texts. Raises ConfigError, or ConfigErrors for more than one.
    """
    errors: list[ConfigError] = []
    file = TomlFile(toml_name or "TOML", {}, {}, {}, {}, [])
    if toml_text is not None:
        file = read_toml(toml_text, file.name, errors)
    given = {setting.name: _find(setting, env, file.found) for setting in SETTINGS}
    values: dict[str, Any] = {}
    read_as: dict[str, str] = {}
    known = {setting.name for setting in SETTINGS} | _READ_ELSEWHERE
    warnings = [
        f"{printable(name)} is not a setting{setting_hint(name, known)}" for name in unread(env, known)
    ]
    for name, item in given.items():
        with _blaming(item, errors):
            values[name] = found = item.setting.parse(item.raw)
            if isinstance(found, Noted):
                values[name], read_as[name] = _noted(item, found, warnings), found.read_as
    credentials: tuple[Credential, ...] = ()
    auth = given["AUTH_REGISTRIES"]
    with _blaming(auth, errors):
        outer, inner = (values[f"AUTH_{word}_DELIMITER"] for word in ("REGISTRIES", "REGISTRY"))
        credentials, doubts = read_logins(auth.raw, outer, inner)
        # Not for those that nobody has named.
        named = values.get("REGISTRIES", ())[len(ALWAYS_INTERCEPTED) :]
        credentials, notes = spread_masks(credentials, named)
        warnings += [f"{auth.label}: {doubt}" for doubt in doubts + notes]
    tables = parse_tables(file.origins, file.name, _for_all_origins(values), errors)
    principals = parse_principals(file.principals, file.name, errors)
    signing_keys = parse_key_tables(file.keys, file.name, errors)
    image_rules = parse_image_rules(file.rules, file.name, errors)
    for rule, key in unknown_keys(image_rules.rules, signing_keys):
        text = f"there is no table [key.{key}]{setting_hint(key, signing_keys)}"
        errors.append(ConfigError(f"{file.name}: rule {rule!r}: signed", None, text))
    matchers = {name: _matcher(given[name], values[name], errors, warnings) for name in _TIER_REGEXES}
    _check_companions(values, given, errors)
    if errors:
        fault = errors[0] if len(errors) == 1 else ConfigErrors(errors)
        fault.warnings = tuple(warnings)
        raise fault
    fields = {setting.field: values[setting.name] for setting in SETTINGS if setting.field}
    fields |= {"credentials": credentials, "tiers": _tiers(matchers, values), "origin_tables": tables}
    fields |= {"principals": principals, "signing_keys": signing_keys, "image_rules": image_rules}
    fields["read_as"] = {name: printable(text) for name, text in read_as.items() if text}
    return _assemble(fields, given, warnings)


def _check_companions(
    values: Mapping[str, Any], given: Mapping[str, Given], errors: list[ConfigError]
) -> None:
    """Note settings that mean nothing without another one."""
    pair = [name for name in _TLS_PAIR if values.get(name)]
    if len(pair) == 1:
        other = _TLS_PAIR[1 - _TLS_PAIR.index(pair[0])]
        errors.append(ConfigError(pair[0], given[pair[0]].told, f"a file in {other} too"))
    if values.get("REGPROXY_CLIENT_CERTS") == "required" and not values.get("REGPROXY_CLIENT_CA_FILE"):
        text = "the file of their CAs in REGPROXY_CLIENT_CA_FILE too"
        errors.append(ConfigError("REGPROXY_CLIENT_CERTS", "required", text))


def _assemble(fields: dict[str, Any], given: Mapping[str, Given], warnings: list[str]) -> Config:
    """Return the Config, after settings that depend on one another were applied."""
    if fields["debug_nginx"] and given["REGPROXY_LOG_LEVEL"].source == "default":
        fields["log_level"] = "debug"
    for name in ("DEBUG", "DEBUG_HUB"):
        if fields[name.lower()]:
            warnings.append(f"{name} {_DEBUG_COST}")
    if not fields["verify_ssl"]:
        warnings.append("VERIFY_SSL is off: whoever is between this proxy and a registry can change tags")
    if fields["client_ca_file"] and not fields["tls_listen"]:
        warnings.append("REGPROXY_CLIENT_CA_FILE has no effect without REGPROXY_TLS_LISTEN")
    parent = fields["parent_proxy"]
    if parent is not None and is_own(parent, (fields["listen"], fields["admin_listen"])):
        warnings.append("HTTPS_PROXY is this proxy itself, and is not used")
        fields["parent_proxy"] = None
    tables = fields["origin_tables"]
    logins = (
        fields["credentials"] or fields["docker_config"] or any(t.credentials for t in tables.own.values())
    )
    if fields["allow_push"] and fields["login_for"] == "push" and logins:
        warnings.append(_PUSHES)
    for (host, _), settings in tables.own.items():
        if fields["verify_ssl"] and not settings.verify:
            warnings.append(f"{host}: verify is off: whoever is between this proxy and it can change tags")
    warnings += without_effect(fields)
    shown: list[tuple[str, str, ValueSource]] = []
    for name, item in given.items():
        derived = name == "REGPROXY_LOG_LEVEL"
        shown.append((name, printable(fields[item.setting.field]) if derived else item.shown, item.source))
    shown += [(name, printable(text), "toml") for name, text in tables.shown]
    shown += [(name, printable(text), "toml") for name, text in shown_keys(fields["signing_keys"])]
    shown += [(name, printable(text), "toml") for name, text in fields["image_rules"].shown]
    warnings += [printable(text) for text in fields["image_rules"].warnings]
    shown += [(name, printable(text), "toml") for name, text in fields["principals"].shown]
    return Config(**fields, warnings=tuple(warnings), shown=tuple(shown))


def _noted(item: Given, found: Noted, warnings: list[str]) -> Any:
    """Return a value without its notes, which are warned of."""
    shown = "" if item.setting.secret else f"={item.told!r}"
    warnings += [printable(f"{item.label}{shown}: {item.hiding(note)}") for note in found.notes]
    return found.value


@contextmanager
def _blaming(item: Given, errors: list[ConfigError]) -> Iterator[None]:
    """Record a parser's exception as an error of this setting."""
    try:
        yield
    except ConfigError as error:
        errors.append(error)
    except ValueError as error:
        told = None if item.setting.secret else item.told
        errors.append(ConfigError(item.label, told, item.hiding(str(error))))


def _find(setting: Setting, env: Mapping[str, str], file: Mapping[str, Given]) -> Given:
    """Return the value that applies to a setting: the environment's, else the file's, else the default."""
    text = env.get(setting.name)
    if not text and setting.name in _LOWER_CASE_TOO:
        text = env.get(setting.name.lower(), text)
    candidates = [Given(setting, setting.name, text, "env")] if text is not None else []
    candidates += [file[setting.name]] if setting.name in file else []
    for item in candidates:
        if item.raw or setting.blank or setting.many:
            return item
    return Given(setting, setting.name, setting.default, "default")


def _for_all_origins(values: Mapping[str, Any]) -> OriginSettings:
    """Return the settings of origins without a table; invalid values are reported elsewhere."""
    connect, read, send = (values.get(f"PROXY_{side}_TIMEOUT", 60.0) for side in ("CONNECT", "READ", "SEND"))
    verify, ca_file = values.get("VERIFY_SSL", True), values.get("REGPROXY_UPSTREAM_CA_FILE")
    access = values.get("REGPROXY_ACCESS")
    # What shares everything by default is no word on a registry whose login is for some clients alone.
    access = None if access == "shared" else access
    return OriginSettings(connect, read, send, verify=verify, ca_file=ca_file, access=access)


_TIER_REGEXES = ("MANIFEST_CACHE_PRIMARY_REGEX", "MANIFEST_CACHE_SECONDARY_REGEX")


def _matcher(item: Given, regex: str, errors: list[ConfigError], warnings: list[str]) -> Matcher | None:
    """Return the compiled expression of a tier; None if there is none."""
    if not regex:
        return None
    with _blaming(item, errors):
        matcher, warning = compile_tier(nginx_unescaped(regex), item.label)
        warnings += [warning] if warning else []
        return matcher
    return None


def _tiers(matchers: Mapping[str, Matcher | None], values: Mapping[str, Any]) -> tuple[Tier, ...]:
    """Return the configured tiers, in the order in which they are matched."""
    primary, secondary = (matchers[name] for name in _TIER_REGEXES)
    rows: list[tuple[TierName, str, Matcher | None]] = []
    if primary:
        rows.append(("manifest-primary", "PRIMARY", primary))
    if secondary:
        rows.append(("manifest-secondary", "SECONDARY", secondary))
    rows.append(("manifest-default", "DEFAULT", None))
    return tuple(
        Tier(name, values[f"MANIFEST_CACHE_{word}_TIME"], matcher, values[f"{PREFIX}SWR_{word}"])
        for name, word, matcher in rows
    )

"""Every setting: its name, its default, what it takes and what it refuses, from the environment and TOML."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from regproxy.config import settings as config_module
from regproxy.config.faults import ConfigErrors
from regproxy.config.image_rules import RuleSet
from regproxy.config.origin_tables import OriginSettings, Tables
from regproxy.config.parent_proxy import NoProxy, ParentProxy
from regproxy.config.principal_tables import PrincipalTables
from regproxy.config.settings import SETTINGS, Config, describe
from regproxy.config.sources.assembly import load
from regproxy.config.values.host_rules import Address, HostRule
from regproxy.config.values.lists import ANY_PORT, parse_networks
from regproxy.config.values.login_entries import Credential
from regproxy.config.values.numbers import Reserve
from regproxy.core.errors import ConfigError

DAY = 86_400.0
HUB_NAMES = ("registry-1.docker.io", "index.docker.io", "auth.docker.io", "dhi.io")
HUB = tuple(map(HostRule, (*HUB_NAMES, "docker.caching.proxy.internal")))
OTHERS = tuple(map(HostRule, ("registry.k8s.io", "gcr.io", "quay.io", "ghcr.io")))

DEFAULTS: dict[str, object] = {
    "listen": Address("::", 3128),
    "admin_listen": Address("::", 3129),
    "transparent_listen": (),
    "tls_listen": (),
    "tls_names": (),
    "tls_cert_file": None,
    "tls_key_file": None,
    "cache_pushes": False,
    "access_ttl": 300.0,
    "access_outage": "same-repository",
    "access_grace": DAY,
    "mirror_registries": None,
    "cache_dir": None,
    "ca_dir": None,
    "ca_key_file": None,
    "ca_crt_file": None,
    "ca_passphrase_file": None,
    "ca_constraints": True,
    "ca_names": (),
    "upstream_ca_file": None,
    "docker_config": None,
    "principals": PrincipalTables(),
    "admin_token_file": None,
    "admin_read_token_file": None,
    "htpasswd": None,
    "unknown_clients": "allow",
    "proxy_protocol": (),
    "client_ca_file": None,
    "client_certs": "optional",
    "login_for": "push",
    "resolve": {},
    "workers": 0,
    "hang_timeout": 30.0,
    "drain_timeout": 7.0,
    "access_log": "-",
    "access_log_format": "regproxy",
    "audit_log": "off",
    "audit_idle": 30.0,
    "log_level": "info",
    "log_format": "text",
    "tls_records": "auto",
    "registries": HUB + OTHERS,
    "connect_ports": {443},
    "allow_targets": (),
    "private_targets": "registries",
    "http_redirects": (),
    "credentials": (),
    "parent_proxy": None,
    "no_proxy": NoProxy(),
    "origin_tables": Tables(OriginSettings(60.0, 60.0, 60.0)),
    "signing_keys": {},
    "image_rules": RuleSet(),
    "manifest_cache": False,
    "ignored_headers": (),
    "max_stale": 365 * DAY,
    "keep_on_404": False,
    "offline": False,
    "cache_max_size": 32 << 30,
    "cache_inactive": 60 * DAY,
    "fill_streams": 4,
    "resume_time": 60.0,
    "min_rate": 1024,
    "min_rate_time": 30.0,
    "min_free": None,
    "quota_reserve": Reserve(10, percent=True),
    "allow_push": False,
    "request_buffering": True,
    "verify_ssl": True,
    "disable_ipv6": False,
    "keepalive_timeout": 300.0,
    "repeat_answers": True,
    "tls_groups": "",
    "first_byte_timeout": 900.0,
    "stale_after": 5.0,
    "debug": False,
    "debug_hub": False,
    "debug_listen": Address("127.0.0.1", 8081),
    "debug_hub_listen": Address("127.0.0.1", 8082),
    "debug_password_file": None,
    "debug_credentials": False,
    "debug_nginx": False,
    "warnings": (),
}
SIDES = ["send", "client_body", "client_header", "proxy_read", "proxy_connect", "proxy_send"]
SIDES += ["tunnel_read", "tunnel_connect", "tunnel_send"]
DEFAULTS |= {f"{side}_timeout": 60.0 for side in SIDES}


def test_defaults() -> None:
    config = load({})
    found = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    assert [(tier.name, tier.ttl) for tier in found.pop("tiers")] == [
        ("manifest-primary", 600.0),
        ("manifest-secondary", 60 * DAY),
        ("manifest-default", 3600.0),
    ]
    del found["shown"], found["read_as"]
    assert found == DEFAULTS


MORE = (HostRule("*.a.example", 5000), HostRule("gcr.io"))
LOCAL = (HostRule(".lan"), HostRule("127.0.0.1", 5000))
TWO_NAMES = {"a.test": ("127.0.0.5",), "b": ("::1", "127.0.0.6")}

PARENT = ParentProxy("proxy.lan", 8080, b"Basic dTpw")
DIRECT = NoProxy(names=(("a.example", None), (".b.example", None)))

# (variable, value, field, wanted), each alone in the environment
ENV = [
    ("REGPROXY_LISTEN", "[::]:8080", "listen", Address("::", 8080)),
    ("REGPROXY_ADMIN_LISTEN", ":9000", "admin_listen", Address("", 9000)),
    ("REGPROXY_TRANSPARENT_LISTEN", ":443, :80", "transparent_listen", (Address("", 443), Address("", 80))),
    ("REGPROXY_TLS_LISTEN", ":8443", "tls_listen", (Address("", 8443),)),
    ("REGPROXY_TLS_NAMES", "proxy.corp .lan", "tls_names", (HostRule("proxy.corp"), HostRule(".lan"))),
    ("REGPROXY_CACHE_PUSHES", "true", "cache_pushes", True),
    ("REGPROXY_MIRROR_REGISTRIES", "docker.io", "mirror_registries", (HostRule("docker.io"),)),
    ("REGPROXY_CACHE_DIR", "/var/cache/regproxy/", "cache_dir", "/var/cache/regproxy"),
    ("REGPROXY_CA_DIR", "/etc/ca", "ca_dir", "/etc/ca"),
    ("CA_KEY_FILE", "/run/secrets/key", "ca_key_file", "/run/secrets/key"),
    ("CA_CRT_FILE", "/run/secrets/crt", "ca_crt_file", "/run/secrets/crt"),
    ("REGPROXY_CA_PASSPHRASE_FILE", "/run/secrets/phrase", "ca_passphrase_file", "/run/secrets/phrase"),
    ("REGPROXY_CA_CONSTRAINTS", "off", "ca_constraints", False),
    ("REGPROXY_CA_NAMES", ".lan ::1", "ca_names", (HostRule(".lan"), HostRule("::1"))),
    ("REGPROXY_UPSTREAM_CA_FILE", "/etc/more.pem", "upstream_ca_file", "/etc/more.pem"),
    ("REGPROXY_ADMIN_TOKEN_FILE", "/run/secrets/admin", "admin_token_file", "/run/secrets/admin"),
    ("REGPROXY_ADMIN_READ_TOKEN_FILE", "/run/secrets/read", "admin_read_token_file", "/run/secrets/read"),
    ("REGPROXY_HTPASSWD", "/run/secrets/users", "htpasswd", "/run/secrets/users"),
    ("REGPROXY_PROXY_PROTOCOL", "192.0.2.1 ::/0", "proxy_protocol", parse_networks("192.0.2.1/32,::/0")),
    ("REGPROXY_CLIENT_CA_FILE", "/run/secrets/ca.pem", "client_ca_file", "/run/secrets/ca.pem"),
    ("REGPROXY_UNKNOWN_CLIENTS", "deny", "unknown_clients", "deny"),
    ("REGPROXY_DOCKER_CONFIG", "/run/secrets/config.json", "docker_config", "/run/secrets/config.json"),
    ("REGPROXY_LOGIN_FOR", "Pull", "login_for", "pull"),
    ("REGPROXY_ACCESS_TTL", "1m", "access_ttl", 60.0),
    ("REGPROXY_ACCESS_OUTAGE", "Serve", "access_outage", "serve"),
    ("REGPROXY_ACCESS_GRACE", "0", "access_grace", 0.0),
    ("REGPROXY_RESOLVE", "a.test=127.0.0.5 a.test=::1", "resolve", {"a.test": ("127.0.0.5", "::1")}),
    ("REGPROXY_WORKERS", "3", "workers", 3),
    ("REGPROXY_HANG_TIMEOUT", "5s", "hang_timeout", 5.0),
    ("REGPROXY_DRAIN_TIMEOUT", "2m", "drain_timeout", 120.0),
    ("REGPROXY_ACCESS_LOG", "off", "access_log", "off"),
    ("REGPROXY_AUDIT_LOG", "/var/log/audit.json", "audit_log", "/var/log/audit.json"),
    ("REGPROXY_AUDIT_IDLE", "1m", "audit_idle", 60.0),
    ("REGPROXY_ACCESS_LOG_FORMAT", "RP", "access_log_format", "rp"),
    ("REGPROXY_LOG_LEVEL", "Warning", "log_level", "warning"),
    ("REGPROXY_LOG_FORMAT", "JSON", "log_format", "json"),
    ("REGPROXY_TLS_RECORDS", "OpenSSL", "tls_records", "openssl"),
    ("REGISTRIES", "", "registries", HUB),
    ("REGISTRIES", "*.A.example:5000 gcr.io. AUTH.docker.io", "registries", (*HUB, *MORE)),
    ("REGPROXY_CONNECT_PORTS", "443 8443", "connect_ports", {443, 8443}),
    ("REGPROXY_CONNECT_PORTS", "", "connect_ports", set()),
    ("REGPROXY_CONNECT_PORTS", "*", "connect_ports", {ANY_PORT}),
    ("REGPROXY_ALLOW_TARGETS", ".lan 127.0.0.1:5000", "allow_targets", LOCAL),
    ("REGPROXY_PRIVATE_TARGETS", "allow", "private_targets", "allow"),
    ("REGPROXY_PRIVATE_TARGETS", "Deny", "private_targets", "deny"),
    ("REGPROXY_ALLOW_HTTP_REDIRECTS", ".lan 127.0.0.1:5000", "http_redirects", LOCAL),
    ("REGPROXY_ALLOW_HTTP_REDIRECTS", "off", "http_redirects", None),
    ("REGPROXY_ALLOW_HTTP_REDIRECTS", "", "http_redirects", ()),
    ("AUTH_REGISTRIES", "a.example:u:p:q", "credentials", (Credential("a.example", None, "u", "p:q"),)),
    ("HTTPS_PROXY", "http://u:p@Proxy.lan:8080/", "parent_proxy", PARENT),
    ("NO_PROXY", "a.example, .b.example", "no_proxy", DIRECT),
    ("NO_PROXY", "*", "no_proxy", NoProxy(everybody=True)),
    ("ENABLE_MANIFEST_CACHE", "true", "manifest_cache", True),
    ("REGPROXY_MAX_STALE", "0", "max_stale", 0.0),
    ("REGPROXY_IGNORE_HEADERS", "X-Mesh-*, X-Foo", "ignored_headers", (b"x-mesh-*", b"x-foo")),
    ("REGPROXY_KEEP_ON_404", "on", "keep_on_404", True),
    ("REGPROXY_OFFLINE", "true", "offline", True),
    ("ALLOW_PUSH", "true", "allow_push", True),
    ("PROXY_REQUEST_BUFFERING", "off", "request_buffering", False),
    ("CACHE_MAX_SIZE", " 500G ", "cache_max_size", 500 << 30),
    ("CACHE_INACTIVE", "1y", "cache_inactive", 365 * DAY),
    ("CACHE_INACTIVE", "0", "cache_inactive", 0.0),
    ("REGPROXY_MIN_FREE", "2g", "min_free", 2 << 30),
    ("REGPROXY_MIN_FREE", "Auto", "min_free", None),
    ("REGPROXY_MIN_FREE", "0", "min_free", 0),
    ("REGPROXY_QUOTA_RESERVE", "25%", "quota_reserve", Reserve(25, percent=True)),
    ("REGPROXY_QUOTA_RESERVE", "20", "quota_reserve", Reserve(20)),
    ("REGPROXY_FILL_STREAMS", "8", "fill_streams", 8),
    ("REGPROXY_RESUME_TIME", "0", "resume_time", 0.0),
    ("REGPROXY_MIN_RATE", "64k", "min_rate", 65_536),
    ("REGPROXY_MIN_RATE_TIME", "5s", "min_rate_time", 5.0),
    ("VERIFY_SSL", "0", "verify_ssl", False),
    ("DISABLE_IPV6", "true", "disable_ipv6", True),
    ("SEND_TIMEOUT", "61", "send_timeout", 61.0),
    ("CLIENT_BODY_TIMEOUT", "62s", "client_body_timeout", 62.0),
    ("CLIENT_HEADER_TIMEOUT", "500ms", "client_header_timeout", 0.5),
    ("KEEPALIVE_TIMEOUT", "0", "keepalive_timeout", 0.0),
    ("REGPROXY_TLS_GROUPS", "P-384:X25519", "tls_groups", "P-384:X25519"),
    ("REGPROXY_REPEAT_ANSWERS", "false", "repeat_answers", False),
    ("PROXY_READ_TIMEOUT", "1h 30m", "proxy_read_timeout", 5400.0),
    ("PROXY_CONNECT_TIMEOUT", "64s", "proxy_connect_timeout", 64.0),
    ("PROXY_SEND_TIMEOUT", "65s", "proxy_send_timeout", 65.0),
    ("REGPROXY_FIRST_BYTE_TIMEOUT", "10m", "first_byte_timeout", 600.0),
    ("REGPROXY_STALE_AFTER", "0", "stale_after", 0.0),
    ("PROXY_CONNECT_READ_TIMEOUT", "66s", "tunnel_read_timeout", 66.0),
    ("PROXY_CONNECT_CONNECT_TIMEOUT", "67s", "tunnel_connect_timeout", 67.0),
    ("PROXY_CONNECT_SEND_TIMEOUT", "68s", "tunnel_send_timeout", 68.0),
    ("DEBUG", "true", "debug", True),
    ("DEBUG_HUB", "true", "debug_hub", True),
    ("REGPROXY_DEBUG_LISTEN", ":81", "debug_listen", Address("", 81)),
    ("REGPROXY_DEBUG_HUB_LISTEN", "[::1]:82", "debug_hub_listen", Address("::1", 82)),
    ("REGPROXY_DEBUG_PASSWORD_FILE", "/run/p", "debug_password_file", "/run/p"),
    ("REGPROXY_DEBUG_CREDENTIALS", "true", "debug_credentials", True),
    ("DEBUG_NGINX", "true", "debug_nginx", True),
    ("DEBUG_NGINX", "true", "log_level", "debug"),
    ("CACHE_MAX_SIZE", "", "cache_max_size", 32 << 30),
    ("VERIFY_SSL", "", "verify_ssl", True),
]  # fmt: skip


@pytest.mark.parametrize("name, value, field, want", ENV, ids=lambda value: repr(value)[:30])
def test_env(name: str, value: str, field: str, want: object) -> None:
    assert getattr(load({name: value}), field) == want


@pytest.mark.parametrize("name, value, field, want", ENV, ids=lambda value: repr(value)[:30])
def test_toml_takes_the_same_text(name: str, value: str, field: str, want: object) -> None:
    for key in (name.lower(), name.lower().removeprefix("regproxy_")):
        assert getattr(load({}, f"{key} = '{value}'"), field) == want


def test_every_setting_is_tried() -> None:
    of_tiers = ("MANIFEST_CACHE_", "REGPROXY_SWR_")
    tiers = {setting.name for setting in SETTINGS if setting.name.startswith(of_tiers)}
    others = {"AUTH_REGISTRIES_DELIMITER", "AUTH_REGISTRY_DELIMITER", "CA_SRL_FILE"}
    others |= {"REGPROXY_ACCESS"}  # of origins: see test_origins
    others |= {"REGPROXY_CLIENT_CERTS"}  # only with their CAs
    others |= {"REGPROXY_TLS_CERT_FILE", "REGPROXY_TLS_KEY_FILE"}  # only together
    assert {row[0] for row in ENV} | tiers | others == {setting.name for setting in SETTINGS}


# (environment, TOML text, what the error says)
ERRORS = [
    ({"CACHE_MAX_SIZE": "32t"}, None, "CACHE_MAX_SIZE='32t': an nginx size: digits and"),
    ({"SEND_TIMEOUT": "1.5s"}, None, "SEND_TIMEOUT='1.5s': an nginx time: 90s"),
    ({"REGPROXY_HANG_TIMEOUT": "0"}, None, "REGPROXY_HANG_TIMEOUT='0': a time above 0"),
    ({"REGPROXY_OFFLINE": "maybe"}, None, "REGPROXY_OFFLINE='maybe': true or false (also 1/0, yes/no, on"),
    (
        {"REGPROXY_ACCESS": "open"},
        None,
        "REGPROXY_ACCESS='open': shared, verified or denied",
    ),
    (
        {"REGPROXY_ACCESS_OUTAGE": "allow"},
        None,
        "REGPROXY_ACCESS_OUTAGE='allow': deny, same-repository or serve",
    ),
    (
        {"REGPROXY_LOGIN_FOR": "all"},
        None,
        "REGPROXY_LOGIN_FOR='all': pull (pulls alone) or push (pushes too, where ALLOW_PUSH=true)",
    ),
    ({"REGISTRIES": "gcr.io a*b"}, None, "REGISTRIES='gcr.io a*b': 'a*b' is not a mask with one *"),
    ({"REGPROXY_PRIVATE_TARGETS": "false"}, None, "allow (every host that a client names), registries ("),
    ({"REGPROXY_ALLOW_TARGETS": r"~\.gcr\.io$"}, None, "regular expressions (~) are not supported"),
    ({"REGPROXY_LISTEN": "3128"}, None, "REGPROXY_LISTEN='3128': host:port, such as"),
    ({"REGPROXY_TRANSPARENT_LISTEN": "443"}, None, "'443' is not host:port, such as"),
    ({"REGPROXY_RESOLVE": "a.test"}, None, "REGPROXY_RESOLVE='a.test': 'a.test' is not host=address"),
    ({"REGPROXY_IGNORE_HEADERS": "x-a Accept"}, None, "'Accept' is not a field that can be left out"),
    ({"REGPROXY_IGNORE_HEADERS": "x-*-y"}, None, "'x-*-y' is not the name of a header field"),
    ({"REGPROXY_CONNECT_PORTS": "443 0"}, None, "'0' is not a port from 1 to 65535"),
    ({"REGPROXY_WORKERS": "many"}, None, "REGPROXY_WORKERS='many': a number"),
    ({"REGPROXY_LOG_LEVEL": "trace"}, None, "REGPROXY_LOG_LEVEL='trace': debug, info, warning or error"),
    ({"REGPROXY_ACCESS_LOG_FORMAT": "x"}, None, "REGPROXY_ACCESS_LOG_FORMAT='x': regproxy, or rp"),
    ({"REGPROXY_TLS_GROUPS": "X448,Z"}, None, "REGPROXY_TLS_GROUPS='X448,Z': names of groups with colons"),
    ({"REGPROXY_TLS_RECORDS": "own"}, None, "REGPROXY_TLS_RECORDS='own': auto or openssl"),
    ({"MANIFEST_CACHE_PRIMARY_REGEX": "("}, None, "MANIFEST_CACHE_PRIMARY_REGEX='(': a regular"),
    ({"AUTH_REGISTRIES": "a.example"}, None, "AUTH_REGISTRIES: entry 1 of 1 is not host, user and password"),
    ({}, "cache_max_size = '32t'", "reg.toml: cache_max_size='32t': an nginx size"),
    ({}, "regproxy_workers = -1", "reg.toml: regproxy_workers='-1': a number"),
    ({}, "manifest_cache_secondary_regex = '('", "reg.toml: manifest_cache_secondary_regex='(': a regular"),
    ({}, "send_timeout = 1.5", "reg.toml: send_timeout='1.5': an nginx time"),
    ({}, "send_timeout = [60]", "reg.toml: send_timeout: a string, a number or a boolean, not a TOML array"),
    ({}, "registries = [['a']]", "not a TOML array"),
    ({}, "registries = {a = 'b'}", "not a TOML table"),
    ({}, "resolve = {a = 1979-05-27}", "not a TOML date"),
    ({}, "resolve = {a = '127.1'}", "reg.toml: resolve='a=127.1': 'a=127.1' is not an IP address"),
    ({}, "send_timout = 60", "reg.toml: send_timout: no such setting; did you mean send_timeout?"),
    ({}, '[origins."a.b"]', "reg.toml: origins: no such setting; did you mean origin?"),
    ({}, "[[rules]]", "reg.toml: rules: no such setting; did you mean rule?"),
    ({"REGPROXY_MIN_FREE": "10%"}, None, "such as 32g; or auto"),
    ({"REGPROXY_WORKERS": "-1"}, None, "or auto (or 0) for one per core"),
    ({}, "regproxy_cache_max_size = 1", "no such setting; did you mean cache_max_size?"),
    ({}, "CACHE_MAX_SIZE = 1", "reg.toml: CACHE_MAX_SIZE: no such setting; did you mean cache_max_size?"),
    ({}, "zzz = 60", "reg.toml: zzz: no such setting"),
    ({}, "workers = 1\nregproxy_workers = 1", "regproxy_workers: also given as reg.toml: workers"),
    ({}, "workers = ", "reg.toml: a TOML file: "),
    ({}, "a = " + "[" * 5000, "reg.toml: a TOML file: "),
    ({}, "a = " + "9" * 5000, "reg.toml: a TOML file: "),
]  # fmt: skip


@pytest.mark.parametrize("env, toml, want", ERRORS, ids=lambda value: repr(value)[:40])
def test_errors(env: dict[str, str], toml: str | None, want: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(want)) as caught:
        load(env, toml, "reg.toml")
    assert not isinstance(caught.value, ConfigErrors)


def test_describe() -> None:
    env = {
        "CACHE_MAX_SIZE": "1g",
        "REGPROXY_CA_DIR": "/x",
        "DEBUG_NGINX": "true",
        "REGPROXY_CACHE_DIR": "/\udc80",
    }
    rows = describe(
        load(env, "registries = ['a.example', 'b.example']\nresolve = {a = '::1'}\nallow_push = true")
    )
    assert [name for name, _, _ in rows] == [setting.name for setting in SETTINGS]
    shown = {name: (value, origin) for name, value, origin in rows}
    assert shown["CACHE_MAX_SIZE"] == ("1g", "env")
    assert shown["CACHE_INACTIVE"] == ("60d", "default")
    assert shown["REGISTRIES"] == ("a.example b.example", "toml")
    assert shown["REGPROXY_RESOLVE"] == ("a=::1", "toml")
    assert shown["ALLOW_PUSH"] == ("true", "toml")
    assert shown["AUTH_REGISTRIES"] == ("", "default")
    assert shown["CA_KEY_FILE"] == ("", "default")
    assert shown["REGPROXY_LOG_LEVEL"] == ("debug", "default")
    assert shown["REGPROXY_CACHE_DIR"] == ("/\\udc80", "env")


def test_settings_are_a_table() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert all(setting.meaning and "\n" not in setting.meaning for setting in SETTINGS)
    assert [setting.name for setting in SETTINGS if setting.secret] == ["AUTH_REGISTRIES", "HTTPS_PROXY"]
    fields = {item.name for item in dataclasses.fields(Config)}
    single = {setting.field for setting in SETTINGS if setting.field}
    several = {"credentials", "tiers", "origin_tables", "signing_keys", "image_rules", "principals"}
    assert fields - single == {*several, "warnings", "shown", "read_as"} and single < fields


def test_a_config_is_frozen_and_equal_by_value() -> None:
    config = load({"CACHE_MAX_SIZE": "1g"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workers = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")
    assert config == load({}, "cache_max_size = '1024m'")
    assert config != load({})
    assert dataclasses.replace(config, workers=7).workers == 7


@pytest.mark.parametrize("module", ["settings", "tag_tiers"])
def test_nothing_here_reaches_outside(module: str) -> None:
    tree = ast.parse(Path(config_module.__file__).with_name(f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported.isdisjoint({"os", "socket", "ssl", "asyncio", "time", "pathlib"})

"""An environment that starts docker-registry-proxy: what is read from it, and what is warned of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regproxy.config.parent_proxy import ParentProxy
from regproxy.config.settings import ALWAYS_INTERCEPTED, Config, describe
from regproxy.config.sources import loading
from regproxy.config.sources.assembly import load
from regproxy.config.values.host_rules import HostRule
from regproxy.core.errors import ConfigError


def rules(config: Config) -> list[str]:
    """Return REGISTRIES without the hosts that always belong to it."""
    return [str(rule) for rule in config.registries[len(ALWAYS_INTERCEPTED) :]]


# (variable, value, field, wanted, what the only warning says; "" is none)
SWITCHES = [
    (name, value, field, wanted, warned)
    for name, field in (
        ("ENABLE_MANIFEST_CACHE", "manifest_cache"),
        ("ALLOW_PUSH", "allow_push"),
        ("PROXY_REQUEST_BUFFERING", "request_buffering"),
        ("DISABLE_IPV6", "disable_ipv6"),
        ("DEBUG", "debug"),
        ("DEBUG_HUB", "debug_hub"),
        ("DEBUG_NGINX", "debug_nginx"),
    )
    for value, wanted, warned in (
        ("false", False, ""),
        ("False", False, ""),
        ("0", False, ""),
        ("no", False, ""),
        ("off", False, ""),
        ("True", False, "read as false"),
        ("1", False, "read as false"),
        ("yes", False, "read as false"),
        ("on", False, "read as false"),
        ("true ", False, "read as false"),
        ('"true"', False, "read as false"),
        ("maybe", False, "read as false"),
        (" ", False, "read as false"),
    )
]
TIMES = [
    ("KEEPALIVE_TIMEOUT", "300s 60s", "keepalive_timeout", 300.0, "nginx's Keep-Alive field"),
    ("KEEPALIVE_TIMEOUT", "1h 30m", "keepalive_timeout", 3600.0, "read as 1h"),
    ("KEEPALIVE_TIMEOUT", "75 0", "keepalive_timeout", 75.0, "nginx's Keep-Alive field"),
    ("KEEPALIVE_TIMEOUT", "0", "keepalive_timeout", 0.0, ""),
    # Quotes that --env-file and Compose lists keep mean nothing to nginx either.
    ("KEEPALIVE_TIMEOUT", '"300s"', "keepalive_timeout", 300.0, ""),
    ("KEEPALIVE_TIMEOUT", "'1h 30m'", "keepalive_timeout", 5400.0, ""),
    ("KEEPALIVE_TIMEOUT", "\"1h 30m\" '60s'", "keepalive_timeout", 5400.0, "Keep-Alive field"),
    ("SEND_TIMEOUT", '"90s"', "send_timeout", 90.0, ""),
    ("PROXY_READ_TIMEOUT", "'0'", "proxy_read_timeout", 60.0, "read as 60s"),
    ("CACHE_MAX_SIZE", '"32g"', "cache_max_size", 32 << 30, ""),
    ("CACHE_MAX_SIZE", "32g min_free=1g manager_files=100", "cache_max_size", 32 << 30, "read as 32g"),
    ("SEND_TIMEOUT", "0", "send_timeout", 60.0, "read as 60s"),
    ("CLIENT_BODY_TIMEOUT", "0s", "client_body_timeout", 60.0, "read as 60s"),
    ("PROXY_READ_TIMEOUT", "0ms", "proxy_read_timeout", 60.0, "read as 60s"),
    ("PROXY_CONNECT_SEND_TIMEOUT", "0", "tunnel_send_timeout", 60.0, "read as 60s"),
]
# Whoever wrote `yes` means that certificates are verified.
VERIFY = [
    ("VERIFY_SSL", value, "verify_ssl", wanted, warned)
    for value, wanted, warned in (
        ("true", True, ""),
        ("1", True, "read as true"),
        ("yes", True, "read as true"),
        ("True", True, "read as true"),
        (" ", True, "read as true"),
        ("never", True, "read as true"),
        ("false", False, "VERIFY_SSL is off"),
        ("0", False, "VERIFY_SSL is off"),
        ("No", False, "VERIFY_SSL is off"),
    )
]
PROXIES = [
    ("HTTPS_PROXY", "socks5://u:hunter2@p:1080", "parent_proxy", None, "http://host:port"),
    ("HTTPS_PROXY", "socks5h://p:1080", "parent_proxy", None, "or http://user:password@host:port;"),
    ("HTTPS_PROXY", "https://p:443", "parent_proxy", None, "http://host:port"),
    ("https_proxy", "socks4://p", "parent_proxy", None, "http://host:port"),
    ("HTTPS_PROXY", "socks5://u:hunter2#x@[p:1", "parent_proxy", None, "http://host:port"),
    ("HTTPS_PROXY", '""', "parent_proxy", None, ""),
    ("HTTPS_PROXY", '"http://p:8080"', "parent_proxy", ParentProxy("p", 8080), ""),
]


@pytest.mark.parametrize("name, value, field, wanted, warned", [*SWITCHES, *TIMES, *VERIFY, *PROXIES])
def test_values(name: str, value: str, field: str, wanted: object, warned: str) -> None:
    config = load({name: value})
    assert getattr(config, field) == wanted
    if warned:
        (warning,) = config.warnings
        assert warned in warning and warning.startswith(name.upper()) and "hunter" not in warning
    else:
        assert config.warnings == ()


@pytest.mark.parametrize("mark", ['"', "'"])
def test_quotes_that_an_env_file_keeps(mark: str) -> None:
    env = {
        "MANIFEST_CACHE_PRIMARY_REGEX": "(stable|nightly)",
        "MANIFEST_CACHE_SECONDARY_REGEX": "",
        "CACHE_INACTIVE": "1h 30m",
        "CA_KEY_FILE": "/c/a key",
        "CA_CRT_FILE": "/c/crt",
        "AUTH_REGISTRIES": "a.example|u|p;;;b.example|u|p",
        "AUTH_REGISTRIES_DELIMITER": ";;;",
        "AUTH_REGISTRY_DELIMITER": "|",
    }
    config = load({name: f"{mark}{value}{mark}" for name, value in env.items()})
    primary, _ = config.tiers  # the empty expression is no tier
    assert primary.pattern is not None
    assert [primary.pattern(tag) for tag in ("stable-1", "nightly", "v1")] == [True, True, False]
    assert (config.cache_inactive, config.ca_key_file, config.ca_crt_file) == (5400.0, "/c/a key", "/c/crt")
    assert [(pair.host, pair.password) for pair in config.credentials] == [
        ("a.example", "p"),
        ("b.example", "p"),
    ]
    assert config.warnings == ()
    blank = load(
        {"AUTH_REGISTRIES": "a.example:u:p b.example:u:p", "AUTH_REGISTRIES_DELIMITER": f"{mark} {mark}"}
    )
    assert len(blank.credentials) == 2


def test_a_parent_proxy_with_a_path() -> None:
    config = load({"HTTPS_PROXY": "http://u:hunter2@p:8080/some/path?x"})
    assert (str(config.parent_proxy), len(config.warnings)) == ("p:8080", 1)
    assert "hunter" not in config.warnings[0]


@pytest.mark.parametrize("value", ["http://", "http://p:99999", "http://p:0", "http://a b:1"])
def test_a_parent_proxy_that_nobody_can_use(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: http://host:port"):
        load({"HTTPS_PROXY": value})


def test_a_serial_number_file() -> None:
    (warning,) = load({"CA_SRL_FILE": "/ca/ca.srl"}).warnings
    assert warning == "CA_SRL_FILE='/ca/ca.srl': has no effect: serial numbers are random"
    assert load({"CA_SRL_FILE": ""}).warnings == ()


def test_nginx_resolvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NGINX_RESOLVERS", tmp_path / "resolvers.conf")
    assert loading.read(None, {}).warnings == ()
    (tmp_path / "resolvers.conf").write_text("resolver 192.0.2.1;")
    (warning,) = loading.read(None, {}).warnings
    assert warning.startswith(f"{tmp_path}/resolvers.conf has no effect")


# (value, seconds)
@pytest.mark.parametrize(
    "value, seconds",
    [
        ("200 1h", 3600.0),
        ("200 302 10m", 600.0),
        ("any 1m", 60.0),
        ("\"200\" '1h 30m'", 5400.0),
        ("404 1h 30m", None),
    ],
)
def test_statuses_ahead_of_a_tier_time(value: str, seconds: float | None) -> None:
    env = {"MANIFEST_CACHE_DEFAULT_TIME": value}
    if seconds is None:
        with pytest.raises(ConfigError):
            load(env)
    else:
        config = load(env)
        assert (config.tiers[-1].ttl, len(config.warnings)) == (seconds, 1)


# (value, the rules, how many warnings)
REGISTRIES = [
    ("https://gcr.io", ["gcr.io"], 1),
    ("HTTPS://gcr.io/", ["gcr.io"], 1),
    ("gcr.io/ quay.io", ["gcr.io", "quay.io"], 1),
    ("http://reg.example:5000/", ["reg.example:5000"], 1),
    ("gcr.io/project", ["gcr.io"], 1),
    ("gcr.io,quay.io", ["gcr.io", "quay.io"], 0),
    ("gcr.io:99999 quay.io", ["quay.io"], 1),
    ("gcr.io: quay.io", ["quay.io"], 1),
    ("gcr.io münchen.example", ["gcr.io"], 1),
    (r"~^reg[0-9]+\.example\.com$ gcr.io", [r"~^reg[0-9]+\.example\.com$", "gcr.io"], 0),
    (r"gcr.io,~^r[0-9]{1,2}\.example$", ["gcr.io", r"~^r[0-9]{1,2}\.example$"], 0),
    (r"~(?!a)b gcr.io", ["gcr.io"], 1),
    ("~( gcr.io", ["gcr.io"], 1),
    ("~ gcr.io", ["gcr.io"], 1),
    # What nginx takes, and nobody can match.
    (".*.gcr.io *.münchen.example *.gcr.io:99999 quay.io", ["quay.io"], 3),
    ("\"gcr.io\" 'quay.io'", ["gcr.io", "quay.io"], 0),
    ("https://me:hunter2@reg.example/ me:hunt/er2@reg.example:5000", ["reg.example"], 2),
]


@pytest.mark.parametrize("value, wanted, warnings", REGISTRIES)
def test_registries(value: str, wanted: list[str], warnings: int) -> None:
    config = load({"REGISTRIES": value})
    assert (rules(config), len(config.warnings)) == (wanted, warnings)
    assert all(warning.startswith("REGISTRIES=") for warning in config.warnings)
    assert "hunt" not in f"{config.warnings}{describe(config)}"


@pytest.mark.parametrize("value", ["*", "a*b.example", "reg.*.example", "*a.example"])
def test_a_mask_that_nginx_refuses_too(value: str) -> None:
    with pytest.raises(ConfigError, match="is not a mask with one"):
        load({"REGISTRIES": value})


# (expression, host, whether it matches)
EXPRESSIONS = [
    (r"~^reg[0-9]+\.example\.com$", "reg7.example.com", True),
    (r"~^reg[0-9]+\.example\.com$", "REG7.example.com.", True),
    (r"~^reg[0-9]+\.example\.com$", "xreg7.example.com", False),
    (r"~^reg[0-9]+\.example\.com$", "reg7.example.com.evil.example", False),
    (r"~\.example\.com$", "a.example.com", True),
    (r"~\.example\.com$", "example.com", False),
    (r"~example", "an.example.org", True),
    (r"~*^GHCR\.io$", "ghcr.io", True),
    (r"~^(?<name>a|b)\.example$", "b.example", True),
    (r"~^\d+\.example$", "12.example", True),
    # nginx's configuration has its own backslashes.
    (r"~^\\d+\\.example$", "12.example", True),
    (r"~^\\d+\\.example$", "12xexample", False),
]


@pytest.mark.parametrize(
    "regex, tag, want",
    [(r"(\\d|\\.)+-x", "1.2-x", True), (r"v\\.1", "v.1", True), (r"v\\.1", "vx1", False)],
)
def test_doubled_backslashes_of_a_tier(regex: str, tag: str, want: bool) -> None:
    pattern = load({"MANIFEST_CACHE_PRIMARY_REGEX": regex}).tiers[0].pattern
    assert pattern is not None
    assert pattern(tag) is want


@pytest.mark.parametrize("text, host, want", EXPRESSIONS)
def test_expressions(text: str, host: str, want: bool) -> None:
    (rule,) = load({"REGISTRIES": text}).registries[len(ALWAYS_INTERCEPTED) :]
    assert (str(rule), rule.is_exact) == (text, False)
    assert rule.matches(host, 443) is rule.matches(host, 5000) is want


@pytest.mark.parametrize(
    "pattern, exact", [("a.b", True), ("::1", True), ("*.a", False), (".a", False), ("a.*", False)]
)
def test_exact_rules(pattern: str, exact: bool) -> None:
    assert HostRule(pattern).is_exact is exact


# (AUTH_REGISTRIES, REGISTRIES, hosts that have a pair, how many warnings)
MASKS = [
    ("*.example.com:u:p", "", {("*.example.com", None)}, 0),
    (".example.com:5000:u:p", "", {(".example.com", 5000)}, 1),
    (
        "reg.*:u:p",
        "reg.example.com reg.example.org other.example",
        {("reg.example.com", None), ("reg.example.org", None)},
        1,
    ),
    ("reg.*:u:p", "reg.* gcr.io", set(), 1),
    ("reg.*:u:p reg.a.example:v:q", "reg.a.example", {("reg.a.example", None)}, 1),
    # So can one that a regular expression takes; it is for any name that has `gcr.io` in it.
    (r"~^reg\d\.a\.example$:u:p", "reg1.a.example reg.a.example", {("reg1.a.example", None)}, 1),
    ("~gcr.io:u:p", "gcr.io ~gcr.io *.gcr.io", {("gcr.io", None)}, 1),
    ("~gcr.io:u:p", "~gcr.io", set(), 1),
    ("~docker:u:p auth.*:u:p", "", set(), 2),
    ("~(:u:p a.example:u:p", "", {("a.example", None)}, 1),
    ("https://a.example:u:p HTTPS://b.example/:v:q", "", {("a.example", None), ("b.example", None)}, 2),
    ("https://a.example:5000:u:p", "", {("a.example", 5000)}, 2),
    ("https://index.docker.io/v1/:u:p a.example:u:p", "", {("a.example", None)}, 2),
    ("a.example/team:u:p münchen.example:u:p -a:u:p", "", set(), 3),
    ('"a.example:u:p b.example:u:p"', "", {("a.example", None), ("b.example", None)}, 0),
]


@pytest.mark.parametrize("auth, registries, wanted, warnings", MASKS)
def test_masks_of_credentials(auth: str, registries: str, wanted: object, warnings: int) -> None:
    config = load({"AUTH_REGISTRIES": auth, "REGISTRIES": registries})
    assert ({(pair.host, pair.port) for pair in config.credentials}, len(config.warnings)) == (
        wanted,
        warnings,
    )
    if " reg.a.example:v:q" in auth:
        assert config.credentials[0].username == "v"
    assert "u:p" not in f"{config.warnings}"


@pytest.mark.parametrize("auth", ["a.example:u", "*.a.*:u:p", "a*b:u:p", "*:u:p"])
def test_masks_that_are_none(auth: str) -> None:
    with pytest.raises(ConfigError, match="AUTH_REGISTRIES: entry 1 of 1 is not"):
        load({"AUTH_REGISTRIES": auth})


# (value, how many warnings)
@pytest.mark.parametrize(
    "value, warnings",
    [
        ("localhost,<local>;10.*;https://a.example/", 0),
        ("a..b, a.example", 1),
        ("10.0.0.0/99;x*y", 2),
        ("me:hunter2@a.example:x <LOCAL>", 1),
    ],
)
def test_no_proxy_is_never_fatal(value: str, warnings: int) -> None:
    config = load({"NO_PROXY": value})
    assert len(config.warnings) == warnings
    assert config.no_proxy.matches("a.example", 443) is (" a.example" in value or "//a.example" in value)
    assert config.no_proxy.local is ("<local>" in value.lower())
    assert "hunter2" not in f"{config.warnings}{describe(config)}"


# (value, host, port, whether it is reached without a proxy)
DIRECT = [
    ("[2001:db8::1]:443", "2001:db8::1", 443, True),
    ("[2001:db8::1]:443", "2001:db8::1", 444, False),
    ("[2001:db8::1]", "2001:db8::1", 444, True),
    ("[2001:db8::]/32", "2001:db8::1", 443, True),
    ("2001:db8::/32", "2001:db9::1", 443, False),
    ("::ffff:10.0.0.1", "10.0.0.1", 443, True),
    ("::ffff:10.0.0.0/104", "10.1.0.1", 443, True),
    ("10.0.0.0/8", "::ffff:10.0.0.1", 443, True),
    ("10.0.0.1:443", "10.0.0.1", 444, False),
]


@pytest.mark.parametrize("value, host, port, want", DIRECT)
def test_addresses_of_no_proxy(value: str, host: str, port: int, want: bool) -> None:
    config = load({"NO_PROXY": value})
    assert config.warnings == ()
    assert config.no_proxy.matches(host, port) is want


# What its image sets, and what people have been seen to set beside it.
ENVIRONMENT = {
    "CA_KEY_FILE": "/ca/ca.key",
    "CA_CRT_FILE": "/ca/ca.crt",
    "CA_SRL_FILE": "/ca/ca.srl",
    "REGISTRIES": "registry.k8s.io https://gcr.io quay.io/ *.dkr.ecr.eu-west-1.amazonaws.com ~^reg[0-9]$",
    "AUTH_REGISTRIES": "some.authenticated.registry:oneuser:onepassword *.example.com:user:password",
    "AUTH_REGISTRIES_DELIMITER": " ",
    "AUTH_REGISTRY_DELIMITER": ":",
    "CACHE_MAX_SIZE": "400g",
    "ENABLE_MANIFEST_CACHE": "True",
    "MANIFEST_CACHE_PRIMARY_REGEX": "(stable|nightly|production|test)",
    "MANIFEST_CACHE_PRIMARY_TIME": "10m",
    "MANIFEST_CACHE_SECONDARY_REGEX": r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+",
    "MANIFEST_CACHE_SECONDARY_TIME": "60d",
    "MANIFEST_CACHE_DEFAULT_TIME": "200 1h",
    "ALLOW_PUSH": "",
    "PROXY_REQUEST_BUFFERING": "1",
    "VERIFY_SSL": "1",
    "DISABLE_IPV6": "yes",
    "DEBUG": "true",
    "DEBUG_HUB": "maybe",
    "DEBUG_NGINX": "0",
    "KEEPALIVE_TIMEOUT": "300s 60s",
    "SEND_TIMEOUT": "0",
    "CLIENT_BODY_TIMEOUT": "60s",
    "CLIENT_HEADER_TIMEOUT": "60s",
    "PROXY_READ_TIMEOUT": "60s",
    "PROXY_CONNECT_TIMEOUT": "60s",
    "PROXY_SEND_TIMEOUT": "60s",
    "PROXY_CONNECT_READ_TIMEOUT": "60s",
    "PROXY_CONNECT_CONNECT_TIMEOUT": "60s",
    "PROXY_CONNECT_SEND_TIMEOUT": "60s",
    "HTTPS_PROXY": "socks5://proxy.example:1080",
    "NO_PROXY": "<local>;10.*;https://registry.example/;a..b",
    "HTTP_PROXY": "socks5://proxy.example:1080",
}


def test_a_whole_environment() -> None:
    config = load(ENVIRONMENT)
    assert (config.manifest_cache, config.verify_ssl, config.keepalive_timeout) == (False, True, 300.0)
    warned = {re.match("[A-Z_0-9]+", warning)[0] for warning in config.warnings}  # type: ignore[index]
    assert warned == {
        *("CA_SRL_FILE", "REGISTRIES", "ENABLE_MANIFEST_CACHE", "MANIFEST_CACHE_DEFAULT_TIME", "VERIFY_SSL"),
        *("PROXY_REQUEST_BUFFERING", "DISABLE_IPV6", "DEBUG", "DEBUG_HUB", "KEEPALIVE_TIMEOUT"),
        *("SEND_TIMEOUT", "HTTPS_PROXY", "NO_PROXY"),
    }

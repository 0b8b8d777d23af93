"""A configuration as a whole: what wins over what, settings that depend on others, all errors, no secrets."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regproxy.config.faults import ConfigErrors
from regproxy.config.settings import ALWAYS_INTERCEPTED, SETTINGS, describe
from regproxy.config.sources.assembly import load
from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.login_entries import Credential
from regproxy.core.errors import ConfigError


def test_the_environment_wins_over_the_file() -> None:
    toml = "cache_max_size = '1g'\nregistries = ['a.example']\nresolve = {a = '::1'}\nsend_timeout = 5"
    config = load(
        {"CACHE_MAX_SIZE": "2g", "REGISTRIES": "", "REGPROXY_RESOLVE": "b=::1", "SEND_TIMEOUT": ""}, toml
    )
    assert config.cache_max_size == 2 << 30
    assert config.registries == tuple(map(HostRule, ALWAYS_INTERCEPTED))
    assert dict(config.resolve) == {"b": ("::1",)}
    assert config.send_timeout == 5.0


KEY = '{\n  "type": "service_account",\n  "project": "a:b;;c"\n}'


def test_delimiters() -> None:
    env = {
        "AUTH_REGISTRIES": f"gcr.io:::_json_key:::{KEY};;;auth.docker.io:::me:::a:::b c",
        "AUTH_REGISTRIES_DELIMITER": ";;;",
        "AUTH_REGISTRY_DELIMITER": ":::",
    }
    want = (Credential("gcr.io", None, "_json_key", KEY), Credential("auth.docker.io", None, "me", "a:::b c"))
    assert load(env).credentials == want
    env |= {"AUTH_REGISTRIES_DELIMITER": "", "AUTH_REGISTRY_DELIMITER": "", "AUTH_REGISTRIES": "a:u:p b:u:p"}
    assert [item.host for item in load(env).credentials] == ["a", "b"]
    toml = f"auth_registry_delimiter = '/'\nauth_registries = ['''gcr.io/_json_key/{KEY}''']"
    assert load({}, toml).credentials == want[:1]


# (environment, (name, ttl, expression) of each tier)
TIERS = [
    ({"MANIFEST_CACHE_PRIMARY_REGEX": ""}, ["manifest-secondary", "manifest-default"]),
    ({"MANIFEST_CACHE_SECONDARY_REGEX": ""}, ["manifest-primary", "manifest-default"]),
    (
        {"MANIFEST_CACHE_PRIMARY_REGEX": "", "MANIFEST_CACHE_SECONDARY_REGEX": ""},
        ["manifest-default"],
    ),
    ({"ENABLE_MANIFEST_CACHE": "true"}, ["manifest-primary", "manifest-secondary", "manifest-default"]),
]


@pytest.mark.parametrize("env, want", TIERS, ids=str)
def test_an_empty_regex_is_no_tier(env: dict[str, str], want: list[str]) -> None:
    assert [tier.name for tier in load(env).tiers] == want


def test_tiers() -> None:
    config = load(
        {
            "MANIFEST_CACHE_PRIMARY_REGEX": "a",
            "MANIFEST_CACHE_PRIMARY_TIME": "1m",
            "MANIFEST_CACHE_SECONDARY_REGEX": "b",
            "MANIFEST_CACHE_SECONDARY_TIME": "2h",
            "MANIFEST_CACHE_DEFAULT_TIME": "0",
            "REGPROXY_SWR_PRIMARY": "1d",
            "REGPROXY_SWR_DEFAULT": "30",
        }
    )
    found = [(tier.name, tier.ttl, tier.pattern and tier.pattern.regex, tier.swr) for tier in config.tiers]
    assert found == [
        ("manifest-primary", 60.0, "a", 86_400.0),
        ("manifest-secondary", 7200.0, "b", 0.0),
        ("manifest-default", 0.0, None, 30.0),
    ]


def test_a_file_without_a_name() -> None:
    with pytest.raises(ConfigError, match="TOML: workers='x'"):
        load({}, "workers = 'x'")


def test_all_errors_are_told() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load({"CACHE_MAX_SIZE": "x", "MANIFEST_CACHE_PRIMARY_REGEX": "("}, "a = 1\nworkers = 'x'", "reg.toml")
    error = caught.value
    names = ["reg.toml: a", "reg.toml: workers", "CACHE_MAX_SIZE", "MANIFEST_CACHE_PRIMARY_REGEX"]
    assert [each.variable for each in error.errors] == names
    assert [line.split("=")[0].split(": no")[0] for line in str(error).splitlines()] == names
    assert (error.variable, error.value) == ("reg.toml: a", None)


SECRETS: list[tuple[dict[str, str], str | None]] = [
    ({"AUTH_REGISTRIES": "hunter2"}, None),
    ({"AUTH_REGISTRIES": "a.example:hunter2 hunter3:x"}, None),
    ({"AUTH_REGISTRIES": "a b:hunter2:hunter3"}, None),
    ({}, "auth_registries = 'hunter2'"),
    ({}, "auth_registries = ['a.example:u', 'hunter2:']"),
    ({}, "auth_registries = {a = 'hunter2'}"),
    ({}, "auth_registry = 'a.example:hunter2:hunter3'"),
    ({"AUTH_REGISTRIES": "a.example:hunter2:hunter3", "CACHE_MAX_SIZE": "x"}, None),
]


@pytest.mark.parametrize("env, toml", SECRETS, ids=str)
def test_errors_tell_no_secret(env: dict[str, str], toml: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load(env, toml)
    assert "hunter" not in f"{caught.value!s}{caught.value!r}{caught.value.value}"
    assert caught.value.__cause__ is None


def test_a_config_tells_no_secret() -> None:
    config = load({"AUTH_REGISTRIES": "a.example:5000:hunter2:hunter3"})
    assert "hunter" not in f"{config!r}{describe(config)}{config.warnings}"
    assert ("AUTH_REGISTRIES", "(set)", "env") in describe(config)


# (environment, how the only warning starts)
WARNINGS = [
    ({"REGPROXY_LISTN": ":1"}, "REGPROXY_LISTN is not a setting; did you mean REGPROXY_LISTEN?"),
    (
        {"REGPROXY_CACHE_MAX_SIZE": "1"},
        "REGPROXY_CACHE_MAX_SIZE is not a setting; did you mean CACHE_MAX_SIZE?",
    ),
    ({"REGPROXY_ZZZ": "1"}, "REGPROXY_ZZZ is not a setting"),
    ({"REGPROXY_\udc80": "1"}, "REGPROXY_\\udc80 is not a setting"),
    ({"DEBUG": "true"}, "DEBUG has mitmweb take part"),
    ({"DEBUG_HUB": "true"}, "DEBUG_HUB has mitmweb take part"),
    ({"VERIFY_SSL": "false"}, "VERIFY_SSL is off"),
    ({"MANIFEST_CACHE_PRIMARY_REGEX": "(?!latest)"}, "MANIFEST_CACHE_PRIMARY_REGEX='(?!latest)': RE2 can't"),
    ({"AUTH_REGISTRIES": "a:5000:u:p"}, "AUTH_REGISTRIES: entry 1 of 1 is read as host:port:user:password"),
]


@pytest.mark.parametrize("env, want", WARNINGS, ids=str)
def test_warnings(env: dict[str, str], want: str) -> None:
    (warning,) = load(env).warnings
    assert warning.startswith(want)


def test_what_is_no_reason_to_warn() -> None:
    # Kubernetes puts these into a pod that runs beside a Service named regproxy.
    links = {
        "REGPROXY_SERVICE_HOST": "10.0.0.1",
        "REGPROXY_SERVICE_PORT": "3128",
        "REGPROXY_SERVICE_PORT_HTTP": "3128",
        "REGPROXY_PORT": "tcp://10.0.0.1:3128",
        "REGPROXY_PORT_3128_TCP": "tcp://10.0.0.1:3128",
        "REGPROXY_PORT_3128_TCP_ADDR": "10.0.0.1",
        "REGPROXY_ADMIN_SERVICE_HOST": "10.0.0.2",
    }
    others = {"REGPROXY_CONFIG": "/etc/reg.toml", "REGPROXY_DEBUG": "1", "PATH": "/bin", "regproxy_x": "1"}
    assert load(links | others).warnings == ()


def test_a_log_level_that_is_set_wins_over_debug_nginx() -> None:
    assert load({"DEBUG_NGINX": "true", "REGPROXY_LOG_LEVEL": "error"}).log_level == "error"
    assert load({"DEBUG_NGINX": "true"}, "log_level = 'warning'").log_level == "warning"


ANY_TEXT = st.text(st.characters())
WRITTEN = st.one_of(ANY_TEXT, st.text("0123456789kmgsdhMy .:,=*[]/~();{}ab-"))
NAMES = st.sampled_from([setting.name for setting in SETTINGS])


def only_config_errors(env: Mapping[str, str], toml: str | None = None) -> None:
    try:
        config = load(env, toml)
    except ConfigError as error:
        assert error.variable and str(error)
    else:
        assert len(describe(config)) == len(SETTINGS)
        "".join(value for _, value, _ in describe(config)).encode()


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
@settings(max_examples=20)  # of each of a hundred
@given(value=WRITTEN)
def test_any_value_of_any_variable(name: str, value: str) -> None:
    only_config_errors({name: value})


@given(st.dictionaries(st.one_of(NAMES, ANY_TEXT.map("REGPROXY_".__add__)), WRITTEN))
def test_any_environment(env: dict[str, str]) -> None:
    only_config_errors(env)


@given(ANY_TEXT)
def test_any_file(text: str) -> None:
    only_config_errors({}, text)


SCALARS = st.sampled_from(
    ["'x'", "''", "1", "-1", "1.5", "nan", "inf", "true", "1979-05-27", "07:32:00", "'a=::1'"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        inner.map(lambda value: f"{{a = {value}}}"),
    ),
    max_leaves=4,
)


@given(st.dictionaries(NAMES.map(str.lower), VALUES, max_size=5))
def test_any_values_in_a_file(table: dict[str, str]) -> None:
    only_config_errors({}, "\n".join(f"{key} = {value}" for key, value in table.items()))

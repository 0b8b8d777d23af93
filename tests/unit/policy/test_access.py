"""Access modes, and whose requests a login may go with: values alone."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError
from regproxy.http.origin import Origin
from regproxy.policy.access import Access
from regproxy.policy.origins import Origins
from regproxy.policy.principals import ANONYMOUS, Principal

REG, OTHER = Origin("https", "reg.example", 443), Origin("https", "other.example", 443)
CI, ANNA = Principal("ci", "address"), Principal("anna", "user")


def access(toml: str, **env: str) -> Access:
    config = load(env, toml)
    return Access(config, Origins(config))


def with_login(more: str = "", mode: str = "") -> str:
    text = f'[origin."reg.example"]\ncredentials = {{username = "u", password = "p"{more}}}\n'
    return text + (f'access = "{mode}"\n' if mode else "")


# (TOML, REGPROXY_ACCESS, mode of reg.example, mode of any other)
MODES = [
    ("", "shared", "shared", "shared"),
    ("", "verified", "verified", "verified"),
    ("", "denied", "denied", "denied"),
    (with_login(), "shared", "shared", "shared"),
    (with_login(mode="verified"), "shared", "verified", "shared"),
    (with_login(mode="shared"), "verified", "shared", "verified"),
    (with_login(', principals = ["ci"]'), "shared", "verified", "shared"),
    (with_login(', repositories = ["a/*"]'), "shared", "verified", "shared"),
    (with_login(', principals = ["ci"]', "shared"), "shared", "shared", "shared"),
    (with_login(', principals = ["ci"]'), "denied", "denied", "denied"),
]


@pytest.mark.parametrize(("toml", "default", "mode", "others"), MODES)
def test_modes(toml: str, default: str, mode: str, others: str) -> None:
    rules = access(toml, REGPROXY_ACCESS=default)
    assert (rules.mode(REG), rules.mode(OTHER)) == (mode, others)
    assert rules.is_shared("reg.example", 443) is (mode == "shared")
    assert rules.guarded is ({mode, others} != {"shared"})


# (TOML, client, repository, whether that is public, lent)
LENT = [
    (with_login(), ANONYMOUS, "a/b", False, True),
    (with_login(mode="verified"), ANNA, "a/b", False, False),
    (with_login(mode="verified"), ANNA, "a/b", True, True),
    (with_login(mode="denied"), ANNA, "a/b", True, True),
    (with_login(mode="denied"), ANNA, "a/b", False, False),
    (with_login(', principals = ["*"]', "denied"), ANNA, "a/b", False, False),
    (with_login(', principals = ["*"]', "denied"), ANNA, "a/b", True, True),
    (with_login(', principals = ["ci"]'), CI, "a/b", False, True),
    (with_login(', principals = ["ci"]'), ANNA, "a/b", False, False),
    (with_login(', principals = ["ci"]'), ANNA, "a/b", True, False),
    (with_login(', principals = ["ci"]'), ANONYMOUS, "a/b", False, False),
    (with_login(', principals = ["*"]'), ANONYMOUS, "a/b", False, True),
    (with_login(', principals = ["ci", "anna"], repositories = ["a/*", "c"]'), ANNA, "a/b", False, True),
    (with_login(', principals = ["ci", "anna"], repositories = ["a/*", "c"]'), ANNA, "c/d", False, False),
    (with_login(', repositories = ["a/*"]'), ANONYMOUS, "a/b", False, True),
    (with_login(', repositories = ["a/*"]'), ANONYMOUS, "", False, False),
    (with_login(', principals = ["ci"]', "shared"), ANNA, "a/b", False, False),
]


@pytest.mark.parametrize(("toml", "client", "repository", "public", "lent"), LENT)
def test_who_a_login_is_for(toml: str, client: Principal, repository: str, public: bool, lent: bool) -> None:
    rules = access(toml)
    assert rules.lends(client, REG, repository, lambda: public) is lent
    assert rules.lends(client, OTHER, repository, lambda: public)
    assert not (rules.withholds(client, REG, repository) and lent)
    assert not rules.withholds(client, OTHER, repository)
    if rules.is_named(client, REG, repository) and rules.mode(REG) != "denied":
        assert lent


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (", principals = []", "principals as a list of names that is not empty"),
        (', principals = "ci"', "principals as a list of names that is not empty"),
        (", principals = [1]", "principals as a list of names that is not empty"),
        (', repositories = [""]', "repositories as a list of names that is not empty"),
        (', repositories = ["/a"]', "a repository such as team/app"),
        (', principal = ["ci"]', "did you mean principals"),
    ],
)
def test_bad_lists(more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        access(with_login(more))

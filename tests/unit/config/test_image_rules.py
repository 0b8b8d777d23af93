"""The [[rule]] tables: what they mean, and what is said of mistakes."""

from __future__ import annotations

import tomllib

import pytest
from msgspec.structs import fields

from regproxy.config.image_rules import KEYS, Rule, RuleSet, parse_rules, unknown_keys
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError

DIGEST = "sha256:" + "a" * 64


def parsed(text: str) -> tuple[RuleSet, list[str]]:
    errors: list[ConfigError] = []
    found = parse_rules(tomllib.loads(text).get("rule", []), "r.toml", errors)
    return found, [str(error) for error in errors]


def test_every_field_has_a_key() -> None:
    assert {each.name for each in fields(Rule)} == set(KEYS)


def test_a_whole_rule() -> None:
    found, errors = parsed(
        f"""
        [[rule]]
        name = "all of it"
        action = "hold"
        registry = ["docker.io", "*.Example.com", "reg.test:5000"]
        repository = "team/**"
        tag = "v*"
        digest = "{DIGEST}"
        media_type = "application/*"
        principal = ["ci", "anonymous"]
        digest_only = true
        min_tag_age = "3d"
        first_sight = "deny"
        at_once = ["{DIGEST}"]
        signed = "team"
        verdict = "http://127.0.0.1:9000/verdict?x=y"
        verdict_timeout = 2
        verdict_ttl = "1m"
        on_error = "allow"
        dry_run = true
        message = "No"
        """
    )
    assert errors == []
    (rule,) = found.rules
    assert rule.registry == ("registry-1.docker.io", "*.example.com", "reg.test:5000")
    assert rule.min_tag_age == 3 * 86_400
    assert (rule.verdict_timeout, rule.verdict_ttl) == (2.0, 60.0)
    assert rule.asks
    assert ("rule.all of it.tag", "v*") in found.shown


WRONG = [
    ("", "is missing"),
    ('action = "allow"\nrepositry = "x"', "did you mean repository?"),
    ('action = "allow"\nzzz = 1', "there are name, action"),
    ('action = "block"', '"allow" or "deny"'),
    ('action = "deny"\nrepository = []', "at least one"),
    ('action = "deny"\nrepository = "/x"', "a repository such as"),
    ('action = "deny"\nrepository = 5', "a string, or an array"),
    ('action = "deny"\nregistry = "http://x"', "is not a host"),
    ('action = "deny"\nregistry = "x:99999"', "rule 1.registry"),
    ('action = "deny"\ntag = "a/b"', "is not a tag"),
    ('action = "deny"\ndigest = "sha256:12"', "64 hex digits"),
    ('action = "deny"\nmedia_type = "Application/X"', "a media type in lower case"),
    ('action = "deny"\nmin_tag_age = "soon"', "rule 1.min_tag_age"),
    ('action = "deny"\nmin_tag_age = true', "a time such as"),
    ('action = "deny"\nfirst_sight = "deny"', "there is none"),
    ('action = "deny"\non_error = "allow"', "there is none"),
    ('action = "deny"\nverdict = "http://user:pw@x/"', "without user and password"),
    ('action = "deny"\nverdict = "ftp://x/"', "a URL such as"),
    ('action = "deny"\nverdict = ""', "a URL such as"),
    ('action = "deny"\nsigned = ["a b"]', "[key.NAME]"),
    ('action = "deny"\non = "both"', '"pull", "push"'),
    ('action = "deny"\non = "push"\nsigned = "x"', "only for pulls"),
    ('action = "deny"\nmessage = "a\\nb"', "one line"),
    ('action = "deny"\nname = "a\\"b"', "a name of"),
    ('action = "deny"\ndry_run = "yes"', "true or false"),
    ('action = "deny"\nname = "x"\n[[rule]]\nname = "x"\naction = "deny"', "another rule's name"),
]


@pytest.mark.parametrize("text, want", WRONG, ids=[want for _, want in WRONG])
def test_mistakes(text: str, want: str) -> None:
    _, errors = parsed(f"[[rule]]\n{text}")
    assert [error for error in errors if want in error], errors
    assert all(error.startswith("r.toml: rule ") for error in errors)


@pytest.mark.parametrize("text", ["rule = 1", "rule = [1]", "[rule]\naction = 'deny'"])
def test_no_tables(text: str) -> None:
    assert "[[rule]]" in parsed(text)[1][0]


ALL = '[[rule]]\nname = "all"\naction = "deny"\n'
DOUBTS = [
    (ALL + '[[rule]]\naction = "allow"', "rule 2 is never reached: all is for everything"),
    (ALL + 'repository = "**"\nregistry = "*"\n[[rule]]\naction = "allow"', "rule 2 is never reached"),
    (ALL + 'principal = "*"\n[[rule]]\naction = "allow"', ""),
    (ALL + 'dry_run = true\n[[rule]]\naction = "allow"', ""),
    (ALL + 'on = "push"\n[[rule]]\naction = "allow"', ""),
    (ALL + '[[rule]]\naction = "allow"\non = ["pull", "push"]', ""),
    ('[[rule]]\naction = "allow"\nsigned = "k"\n[[rule]]\naction = "deny"', ""),
    ('[[rule]]\naction = "deny"\nsigned = "k"\n[[rule]]\naction = "deny"', "rule 2 is never reached"),
    ('[[rule]]\naction = "allow"\nmessage = "x"', "its message is never shown"),
]


@pytest.mark.parametrize("text, want", DOUBTS)
def test_doubts(text: str, want: str) -> None:
    found, errors = parsed(text)
    assert errors == []
    assert any(want in warning for warning in found.warnings) if want else not found.warnings


def test_keys_that_are_not_there() -> None:
    found, _ = parsed('[[rule]]\nname = "s"\naction = "deny"\nsigned = ["a", "b"]')
    assert unknown_keys(found.rules, ["a"]) == [("s", "b")]


def test_the_configuration_has_them() -> None:
    config = load({}, ALL + '[[rule]]\naction = "allow"', "r.toml")
    assert [rule.name for rule in config.image_rules.rules] == ["all", "rule 2"]
    assert ("rule.all.action", "deny", "toml") in config.shown
    assert any("never reached" in warning for warning in config.warnings)


def test_a_key_without_a_table() -> None:
    text = '[key.team]\nfile = "x"\n[[rule]]\naction = "deny"\nsigned = "taem"'
    with pytest.raises(ConfigError, match=r"no table \[key.taem\]; did you mean team"):
        load({}, text, "r.toml")

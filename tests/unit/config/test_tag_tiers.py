"""Which tag is in which tier, and which engine says so."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.tag_tiers import TAG_MAX, Tier, Tiers, compile_tier
from regproxy.config.values.pcre import translate
from regproxy.core.errors import ConfigError

PRIMARY = "(stable|nightly|production|test)"
SECONDARY = r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+"


def tiers(primary: str = PRIMARY, secondary: str = SECONDARY) -> Tiers:
    return Tiers(
        (
            Tier("manifest-primary", 600.0, compile_tier(primary)[0]),
            Tier("manifest-secondary", 5_184_000.0, compile_tier(secondary)[0]),
            Tier("manifest-default", 3_600.0),
        )
    )


# With the default expressions.
TAGS = [
    ("stable", "primary"),
    ("stable-1", "primary"),
    ("stable-1.2.3", "primary"),
    ("testing", "primary"),
    ("test", "primary"),
    ("nightly-20240101", "primary"),
    ("production", "primary"),
    ("Stable", "default"),
    ("unstable", "default"),
    ("latest", "default"),
    ("v1", "default"),
    ("12", "default"),
    ("1.2", "secondary"),
    ("1.", "default"),
    ("123", "secondary"),
    ("v1.2.3", "secondary"),
    ("20240101", "secondary"),
    ("3.19.1-alpine", "secondary"),
    ("a1b2c3d", "secondary"),
    ("bookworm-slim", "default"),
    ("latest-test", "default"),
    ("٣٣٣", "default"),
    ("", "default"),
    ("x" * 5000, "default"),
    ("1" * 5000, "secondary"),
    ("\udc80\ud800", "default"),
    ("stable\udc80", "primary"),
    ("te\nst", "default"),
    ("test\x00", "primary"),
]


@pytest.mark.parametrize("tag, want", TAGS, ids=lambda text: repr(text)[:30])
def test_default_tiers(tag: str, want: str) -> None:
    assert tiers().match(tag).name == f"manifest-{want}"


def test_the_first_tier_that_matches_wins() -> None:
    assert tiers("v1", "v").match("v1.2").name == "manifest-primary"
    assert tiers("v1", "v").match("v2").name == "manifest-secondary"
    assert tiers("v", "v1").match("v1.2").ttl == 600.0


@pytest.mark.parametrize("tag", ["1" * 120 + "x", "x" * 128, "1." * 64, "1" * 50_000 + "x"], ids=len)
def test_hostile_tags_go_through_re2(tag: str) -> None:
    matcher, warning = compile_tier(SECONDARY)
    assert (matcher.engine, warning) == ("re2", None)
    assert matcher(tag) is not tag.startswith("x")


def test_re2_takes_what_blows_up_a_backtracker() -> None:
    matcher, warning = compile_tier(r"(1+)+$")
    assert (matcher.engine, warning) == ("re2", None)
    assert not matcher("1" * 120 + "x")
    assert matcher("1" * 120)


# (expression, engine, tags that match, tags that do not)
PCRE = [
    # Properties.
    (r"\p{L}+$", "re2", ["stable"], ["v1"]),
    (r"[\p{Lu}_]", "re2", ["Stable", "_"], ["stable"]),
    (r"\PN\pN", "re2", ["v1"], ["11"]),
    # Anchors.
    ("stable", "re2", ["stable", "stable-1"], ["unstable", "Stable", ""]),
    ("^stable$", "re2", ["stable"], ["stable-1", "unstable"]),
    ("a|b$", "re2", ["ax", "b"], ["bx", "xa"]),
    ("(a|b)$", "re2", ["a", "b"], ["ax", "bx"]),
    (r"\Av\d+\z", "re2", ["v1"], ["v1x", "xv1"]),
    (r"v\d+\Z", "re2", ["v1"], ["v1x"]),
    ("(?m)^a$", "re2", ["a", "a\nb"], ["b\na", "ab"]),
    (r"\bv1\b", "re2", ["v1", "v1.2"], ["v12"]),
    ("", "re2", ["", "anything"], []),
    # Classes are ASCII without PCRE's UCP.
    (r"\d", "re2", ["1"], ["٣", "a"]),
    (r"\w", "re2", ["a", "_", "0"], ["é", "-"]),
    (r"\D\W\S", "re2", ["a-b"], ["1-b"]),
    (r"[^\d]", "re2", ["a"], ["1"]),
    (r"[\w.-]+$", "re2", ["v1.2-x"], ["v1:2"]),
    (r"[[:digit:]]+-[[:alpha:]]+$", "re2", ["12-ab"], ["12-1", "ab-12", "[:-a"]),
    (r"[[:^alpha:]]", "re2", ["1", "é"], ["a"]),
    (r"[^[:alnum:].]", "re2", ["-"], ["a", "1", "."]),
    (r"[[:upper:][:punct:]]", "re2", ["A", "-", "]"], ["a", "1"]),
    (r"[[:word:]]+$", "re2", ["a_1"], ["a-1"]),
    ("[]a]+$", "re2", ["]a"], ["b"]),
    ("[^]a]", "re2", ["b"], ["]", "a"]),
    ("[[]", "re2", ["["], ["a"]),
    (r"[a\]]+$", "re2", ["a]"], ["b"]),
    (r"\h", "re2", [" ", "\t"], ["a", "h"]),
    (r"\H+$", "re2", ["a"], ["a b"]),
    (r"[\h_]", "re2", [" ", "_"], ["h"]),
    (r"\N+$", "re2", ["ab"], ["a\nb"]),
    (r"\v", "re2", ["\n", "\x0b"], ["v"]),
    (r"\e[\e]", "re2", ["\x1b\x1b"], ["e"]),
    # Literals.
    (r"1\.2", "re2", ["1.2"], ["1x2"]),
    (r"\Q1.2\E+$", "re2", ["1.2", "1.22"], ["1x2", "1.21"]),
    (r"\Qa.b", "re2", ["a.b"], ["axb"]),
    (r"[\Q^]\E]+$", "re2", ["^]"], ["a", "Q"]),
    (r"\x{76}\x31", "re2", ["v1"], ["x"]),
    (r"[\x{2d}a]+$", "re2", ["-a"], ["b"]),
    (r"\x{2e}", "re2", ["."], ["a"]),
    (r"\-\/\_\:", "re2", ["-/_:"], ["-"]),
    (r"a\Eb", "re2", ["ab"], ["aEb"]),
    ("a{,3}b", "re2", ["a{,3}b"], ["aab", "b"]),
    ("a{x}", "re2", ["a{x}"], ["a"]),
    # Quantifiers.
    (r"\d{8}$", "re2", ["20240101"], ["2024010", "202401011"]),
    (r"\d{2,}$", "re2", ["12", "1234"], ["1"]),
    (r"v(\d+\.){1,2}\d+$", "re2", ["v1.2", "v1.2.3"], ["v1", "v1.2.3.4"]),
    (r"a+?b*?$", "re2", ["aab"], ["b"]),
    (r"a{1001}", "re", ["a" * 1001], ["a" * 1000]),
    # Groups and flags.
    ("(?i)stable", "re2", ["STABLE", "Stable-1"], ["x"]),
    ("(?i:st)able", "re2", ["STable"], ["STABLE"]),
    ("st(?i)able", "re2", ["stABLE"], ["STABLE"]),
    ("(?:a|b)c", "re2", ["ac", "bc"], ["c"]),
    (r"(?<major>\d+)\.", "re2", ["1."], ["1"]),
    (r"(?P<major>\d+)\.", "re2", ["1."], ["1"]),
    (r"(?'major'\d+)\.", "re2", ["1."], ["1"]),
    (r"v(?#the major one)\d", "re2", ["v1"], ["v"]),
    (r"release-\K\d", "re2", ["release-1"], ["release-x", "1"]),
    # What RE2 leaves out.
    ("(?!latest)", "re", ["stable", ""], ["latest", "latest-1"]),
    (r"(?!.*-rc)\d", "re", ["1.2"], ["1.2-rc1"]),
    (r"\d+(?=-slim)", "re", ["12-slim"], ["12"]),
    (r".*(?<=-)slim", "re", ["12-slim"], ["12slim"]),
    (r".*(?<!-)slim$", "re", ["12slim"], ["12-slim"]),
    (r"(\d)\1", "re", ["11"], ["12"]),
    (r"(\d)\g1", "re", ["11"], ["12"]),
    (r"(\d)\g{1}0", "re", ["110"], ["120", "11"]),
    (r"(?<d>\d)\k<d>", "re", ["11"], ["12"]),
    (r"(?<d>\d)\k'd'\k{d}", "re", ["111"], ["112"]),
    (r"(?P<d>\d)(?P=d)", "re", ["11"], ["12"]),
    ("a++a", "re", [], ["aaa"]),
    ("a++b", "re", ["aab"], ["aa"]),
    ("(?>a|ab)c", "re", ["ac"], ["abc"]),
    ("(?i)(?!LATEST)", "re", ["stable"], ["Latest"]),
    ("(?x) v \\d  # the major one", "re", ["v1"], ["v 1"]),
    (r"(?=a)[[:alpha:]]\h?\z", "re", ["a", "a "], ["b", "ab"]),
    (r"(?=.)[[:^digit:]]\Qa+\E$", "re", ["xa+"], ["1a+", "xaa"]),
    (r"(?=.)\w\d$", "re", ["a1"], ["é1", "a٣"]),
    (r"(?!x)[[&&-]", "re", ["[", "&", "-"], ["a"]),
    (r"(?=a)a{,3}b", "re", ["a{,3}b"], ["aab"]),
]


@pytest.mark.parametrize("regex, engine, takes, leaves", PCRE, ids=lambda value: repr(value)[:40])
def test_pcre(regex: str, engine: str, takes: list[str], leaves: list[str]) -> None:
    matcher, warning = compile_tier(regex, "MANIFEST_CACHE_PRIMARY_REGEX")
    assert matcher.engine == engine
    assert [tag for tag in takes if not matcher(tag)] == []
    assert [tag for tag in leaves if matcher(tag)] == []
    if engine == "re2":
        assert warning is None
    else:
        assert warning is not None and warning.startswith(
            f"MANIFEST_CACHE_PRIMARY_REGEX={regex!r}: RE2 can't"
        )


@pytest.mark.parametrize(
    "regex",
    [
        "(", ")", "[a", "*", "a**", "(?", "\\", "[z-a]", r"\1", r"(?R)", r"(?1)a", "(?|a|b)", "(*UCP)a",
        r"a(?i)(?!b)c", "[[:nosuch:]]", "[[:Alpha:]]", r"(?<=a+)b", r"\R", r"\G", "(?P<a", "(?!a)\ud800[",
        "(" * 3000 + "(?!)" + ")" * 3000,
    ],
    ids=lambda text: repr(text)[:30],
)  # fmt: skip
def test_what_no_engine_takes(regex: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_tier(regex, "MANIFEST_CACHE_PRIMARY_REGEX")
    assert caught.value.variable == "MANIFEST_CACHE_PRIMARY_REGEX"
    assert str(caught.value).startswith(f"MANIFEST_CACHE_PRIMARY_REGEX={regex!r}: a regular expression that")


def test_the_last_tier_must_take_every_tag() -> None:
    with pytest.raises(ValueError, match="every tag"):
        Tiers(())
    with pytest.raises(ValueError, match="every tag"):
        Tiers((Tier("manifest-primary", 1.0, compile_tier("a")[0]),))


def test_matchers_are_equal_by_what_they_say() -> None:
    assert compile_tier("a")[0] == compile_tier("a")[0]
    assert compile_tier("a")[0] != compile_tier("b")[0]
    assert repr(compile_tier("a")[0]) == "Matcher(regex='a', engine='re2')"


def test_tags_of_the_spec_are_remembered_and_longer_ones_are_not() -> None:
    seen: list[str] = []
    matcher, _ = compile_tier("v")
    spy = type(matcher)("v", "re2", lambda tag: bool(seen.append(tag)))  # type: ignore[func-returns-value]
    both = Tiers((Tier("manifest-primary", 1.0, spy), Tier("manifest-default", 2.0)))
    for tag in ("v" * TAG_MAX, "v" * (TAG_MAX + 1)):
        assert both.match(tag) is both.match(tag)
    assert [len(tag) for tag in seen] == [TAG_MAX, TAG_MAX + 1, TAG_MAX + 1]


@given(st.text(st.characters()))
def test_any_tag_has_a_tier(tag: str) -> None:
    both = tiers(secondary=r"(?!latest)(\d)")
    want = "primary" if tag.startswith(("stable", "nightly", "production", "test")) else "default"
    want = "secondary" if tag[:1] in set("0123456789") else want
    assert both.match(tag).name == f"manifest-{want}"


@given(
    st.text(st.one_of(st.sampled_from("()[]{}?*+|\\^$.:<>=!'#-QEKhdkg1,aPi"), st.characters()), max_size=30)
)
def test_any_expression_is_compiled_or_a_config_error(regex: str) -> None:
    try:
        matcher, warning = compile_tier(regex, "NAME")
    except ConfigError as error:
        assert error.variable == "NAME"
    else:
        assert (matcher.engine == "re2") is (warning is None)


REPEATS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])
ATOMS = st.sampled_from(
    ["a", "b", "1", ".", r"\d", r"\w", r"\.", "[a1]", "[^a]", "[[:alpha:]]", r"\Q.1\E", r"\h", "^", "$"]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, REPEATS).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.text("ab1. -", max_size=8))
def test_both_engines_agree(regex: str, tag: str) -> None:
    matcher, _ = compile_tier(regex)
    assert matcher.engine == "re2"
    assert matcher(tag) is (re.compile(translate(regex, end=r"\Z"), re.ASCII).match(tag) is not None)

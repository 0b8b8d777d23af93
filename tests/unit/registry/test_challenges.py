"""What WWW-Authenticate says, however it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.registry.challenges import (
    CHALLENGES_MAX,
    Bearer,
    Challenge,
    asks_for_basic,
    bearer_of,
    parse_challenges,
)


def format_challenge(challenge: Challenge) -> bytes:
    """Return the field's value of one challenge; the opposite of parse_challenges."""
    text = challenge.scheme
    if challenge.token68:
        text += f" {challenge.token68}"
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"')) for name, value in challenge.parameters
    )
    fields = ", ".join(f'{name}="{value}"' for name, value in escaped)
    return (f"{text} {fields}" if fields else text).encode("latin-1")


HUB = (
    b'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    b'scope="repository:library/alpine:pull"'
)
HUB_PARAMETERS = (
    ("realm", "https://auth.docker.io/token"),
    ("service", "registry.docker.io"),
    ("scope", "repository:library/alpine:pull"),
)

CASES = [
    ([], ()),
    ([b""], ()),
    ([HUB], (Challenge("bearer", HUB_PARAMETERS),)),
    # A comma within quotes, and an error that is told.
    (
        [b'Bearer realm="https://a/t",scope="repository:a:pull,push",error="invalid_token"'],
        (
            Challenge(
                "bearer",
                (("realm", "https://a/t"), ("scope", "repository:a:pull,push"), ("error", "invalid_token")),
            ),
        ),
    ),
    # RFC 9110 11.6.1: two in one line, and one of a word alone
    (
        [b'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\"", Negotiate'],
        (
            Challenge("basic", (("realm", "simple"),)),
            Challenge("newauth", (("realm", "apps"), ("type", "1"), ("title", 'Login to "apps"'))),
            Challenge("negotiate"),
        ),
    ),
    (
        [b"Negotiate YWJj==, Basic realm=x"],
        (Challenge("negotiate", (), "YWJj=="), Challenge("basic", (("realm", "x"),))),
    ),
    (
        [b"Basic", b"BEARER REALM = https://a/t"],
        (Challenge("basic"), Challenge("bearer", (("realm", "https://a/t"),))),
    ),
    # Commas left out, or too many
    (
        [b',, Bearer realm="https://a/t" service="s",,'],
        (Challenge("bearer", (("realm", "https://a/t"), ("service", "s"))),),
    ),
    # What can't be read is left out, and what comes behind it is read.
    ([b'"?", Basic realm="x"'], (Challenge("basic", (("realm", "x"),)),)),
    ([b'realm="nobody\'s", Basic realm="x"'], (Challenge("basic", (("realm", "x"),)),)),
    (
        [b'Bearer realm="https://a/t", scope="no end'],
        (Challenge("bearer", (("realm", "https://a/t"), ("scope", ""))),),
    ),
    ([b"Bearer realm=, service=s"], (Challenge("bearer", (("service", "s"),), "realm="),)),
]


@pytest.mark.parametrize("values, want", CASES)
def test_parse(values: list[bytes], want: tuple[Challenge, ...]) -> None:
    assert parse_challenges(values) == want


def test_no_more_than_so_many() -> None:
    assert len(parse_challenges([b"Basic," * 1000])) == CHALLENGES_MAX
    assert len(parse_challenges([b"Basic"] * 1000)) == CHALLENGES_MAX


BEARERS = [
    ([HUB], Bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/alpine:pull")),
    ([b'Basic realm="x", Bearer realm="https://a/t"'], Bearer("https://a/t")),
    ([b'Bearer service="s", Bearer realm="https://a/t"'], Bearer("https://a/t")),
    ([b'Bearer service="s"'], None),
    ([b'Bearer realm=""'], None),
    ([b"Basic realm=x"], None),
    ([b"Bearer dG9rZW4="], None),
]


@pytest.mark.parametrize("values, want", BEARERS)
def test_bearer(values: list[bytes], want: Bearer | None) -> None:
    assert bearer_of(parse_challenges(values)) == want


def test_basic() -> None:
    assert asks_for_basic(parse_challenges([HUB, b"basic"]))
    assert not asks_for_basic(parse_challenges([HUB]))


TOKENS = st.text("!#$%&'*+.^_`|~0123456789ABCabcxyz-", min_size=1, max_size=12)
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
PARAMETERS = st.lists(st.tuples(TOKENS.map(str.lower), LATIN), max_size=6).map(tuple)
CHALLENGES = st.builds(Challenge, TOKENS.map(str.lower), PARAMETERS)
TOKEN68S = st.builds(
    Challenge, TOKENS.map(str.lower), st.just(()), st.from_regex(r"\A[A-Za-z0-9._~+/-]+={0,2}\Z")
)


@given(st.lists(CHALLENGES | TOKEN68S, max_size=5))
def test_what_is_written_is_read(challenges: list[Challenge]) -> None:
    lines = [format_challenge(challenge) for challenge in challenges]
    assert list(parse_challenges(lines)) == challenges
    assert list(parse_challenges([b", ".join(lines)])) == challenges


@given(
    st.lists(st.binary(max_size=60) | st.text('Basic Ber="\\,;x', max_size=60).map(str.encode), max_size=3)
)
def test_nothing_is_raised(values: list[bytes]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower()

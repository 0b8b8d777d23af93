"""The entries of AUTH_REGISTRIES."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.login_entries import Credential, parse_credentials

ANY_TEXT = st.text(st.characters())  # lone surrogates too: what os.environ makes of bytes that are no UTF-8


# A key of Google's registries: JSON with blanks, colons and line breaks.
KEY = '{\n  "type": "service_account",\n  "key": "-----BEGIN PRIVATE KEY-----\\nMII::=\\n",\n  "a": ";"\n}'

# (text or list, delimiter of entries, delimiter of parts, wanted)
CREDENTIALS = [
    ("", " ", ":", []),
    ("  \n", " ", ":", []),
    ("a.example:user:pass", " ", ":", [("a.example", None, "user", "pass")]),
    ("A.Example.:user:pa:ss:", " ", ":", [("a.example", None, "user", "pa:ss:")]),
    (
        "a.example:u:p  b.example:v:q\n",
        " ",
        ":",
        [("a.example", None, "u", "p"), ("b.example", None, "v", "q")],
    ),
    (f"gcr.io:::_json_key:::{KEY}", ";;;", ":::", [("gcr.io", None, "_json_key", KEY)]),
    (
        f"gcr.io:::_json_key:::{KEY}\n;;;\nauth.docker.io:::me:::a b::::c;;;",
        ";;;",
        ":::",
        [("gcr.io", None, "_json_key", KEY), ("auth.docker.io", None, "me", "a b::::c")],
    ),
    (f"gcr.io:_json_key:{KEY}", ";;;", ":", [("gcr.io", None, "_json_key", KEY)]),
    ("reg.example:5000:::user:::pass", " ", ":::", [("reg.example", 5000, "user", "pass")]),
    ("reg.example:5000:user:pa:ss", " ", ":", [("reg.example", 5000, "user", "pa:ss")]),
    ("reg.example:5000:pass", " ", ":", [("reg.example", None, "5000", "pass")]),
    ("reg.example:123456789012:pa:ss", " ", ":", [("reg.example", None, "123456789012", "pa:ss")]),
    ("[::1]:5000:user:pass", " ", ":", [("::1", 5000, "user", "pass")]),
    ("[::1]:user:pass", " ", ":", [("::1", None, "user", "pass")]),
    (
        "reg.example:u:p reg.example:5000:u:p",
        " ",
        ":",
        [("reg.example", None, "u", "p"), ("reg.example", 5000, "u", "p")],
    ),
    (
        ("a.example:u:p q", "gcr.io:_json_key:" + KEY),
        " ",
        ":",
        [("a.example", None, "u", "p q"), ("gcr.io", None, "_json_key", KEY)],
    ),
]


@pytest.mark.parametrize("raw, outer, inner, want", CREDENTIALS, ids=lambda value: repr(value)[:30])
def test_credentials(
    raw: str | tuple[str, ...], outer: str, inner: str, want: list[tuple[str, int | None, str, str]]
) -> None:
    found, _ = parse_credentials(raw, outer, inner)
    assert list(found) == [Credential(*row) for row in want]


def test_a_guessed_port_is_said() -> None:
    _, doubts = parse_credentials("a.example:u:p reg.example:5000:user:pass", " ", ":")
    assert len(doubts) == 1 and "entry 2 of 2 is read as host:port:user:password" in doubts[0]
    assert "user:pass " not in doubts[0] and "5000" not in doubts[0]
    _, doubts = parse_credentials("reg.example:5000:::user:::pass", " ", ":::")
    assert doubts == []


@pytest.mark.parametrize(
    "raw, outer, inner, want",
    [
        ("a.example:u:hunter2 hunter3", " ", ":", "entry 2 of 2 is not host, user and password"),
        ("gcr.io:_json_key:" + KEY, " ", ":", "set AUTH_REGISTRIES_DELIMITER=';;;'"),
        ("a.example::hunter2", " ", ":", "none of them empty"),
        ("a.example:hunter2:", " ", ":", "none of them empty"),
        ("https://a.example:::u:::hunter2", " ", ":::", "host name"),
        ("*.a.*:u:hunter2", " ", ":", "host name"),
        ("a.example:x:::u:::hunter2", " ", ":::", "port from 1"),
        ("a.example:::u:v:::hunter2", " ", ":::", "colon"),
        ("a.example:u:hunter2\udc80", " ", ":", "UTF-8"),
        (
            "a.example:u:hunter2 A.example:v:hunter3",
            " ",
            ":",
            "entry 2 of 2 names a host for the second time",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_credentials_are_not_repeated(raw: str, outer: str, inner: str, want: str) -> None:
    with pytest.raises(ValueError, match=want) as caught:
        parse_credentials(raw, outer, inner)
    assert "hunter" not in str(caught.value) and "BEGIN" not in str(caught.value)


def test_a_credential_shows_no_secret() -> None:
    assert (
        repr(Credential("a.example", None, "alice", "hunter2")) == "Credential(host='a.example', port=None)"
    )


@given(ANY_TEXT, st.text(min_size=1, max_size=3), st.text(min_size=1, max_size=3))
def test_any_credentials_are_parsed_or_a_value_error(text: str, outer: str, inner: str) -> None:
    try:
        found, _ = parse_credentials(text, outer, inner)
    except ValueError as error:
        assert str(error)
    else:
        assert all(item.host and item.username and item.password for item in found)


PASSWORDS = st.text(min_size=1).filter(lambda text: text.strip() == text and "\N{SNOWMAN}" not in text)


@given(st.sampled_from(["a", "reg-1.example", "x.y.z"]), PASSWORDS)
def test_a_password_comes_back_as_it_was(host: str, password: str) -> None:
    found, _ = parse_credentials(f"{host}:::user:::{password}", "\N{SNOWMAN}", ":::")
    assert found == (Credential(host, None, "user", password),)

"""The small languages of settings: nginx sizes and times, hosts and masks, credentials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values import (
    Address,
    Credential,
    HostRule,
    Reserve,
    parse_address,
    parse_bool,
    parse_credentials,
    parse_directory,
    parse_host,
    parse_level,
    parse_listen,
    parse_log,
    parse_log_style,
    parse_optional_path,
    parse_plain_redirects,
    parse_port,
    parse_ports,
    parse_positive_time,
    parse_reserve,
    parse_resolve,
    parse_rule,
    parse_rules,
    parse_size,
    parse_time,
    parse_workers,
    split_host_port,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates too: what os.environ makes of bytes that are no UTF-8

DAY = 86_400

SIZES = [
    ("0", 0),
    ("1", 1),
    ("01", 1),
    ("512k", 512 << 10),
    ("512K", 512 << 10),
    ("20m", 20 << 20),
    ("32g", 32 << 30),
    ("32G", 32 << 30),
    ("9223372036854775807", 2**63 - 1),
    ("8589934591g", 8589934591 << 30),
]
BAD_SIZES = [
    "", "g", "32t", "32gb", "32 g", "1.5g", "-1", "+1", "1e3", "0x10", "٣g", "1_000", "9223372036854775808",
    "8589934592g", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text, want", SIZES, ids=str)
def test_size(text: str, want: int) -> None:
    assert parse_size(text) == want


@pytest.mark.parametrize("text", BAD_SIZES, ids=lambda text: text[:20])
def test_bad_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"nginx size|63 bits"):
        parse_size(text)


@given(st.integers(0, 2**33 - 1), st.sampled_from("kKmMgG"))
def test_any_size(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number << {"k": 10, "m": 20, "g": 30}[unit.lower()]


# As `nginx -t` judges them, in seconds or in milliseconds.
TIMES = [
    ("0", 0),
    ("90", 90),
    ("60s", 60),
    ("500ms", 0.5),
    ("10m", 600),
    ("1h", 3600),
    ("60d", 60 * DAY),
    ("2w", 14 * DAY),
    ("1M", 30 * DAY),
    ("1y", 365 * DAY),
    ("1h30m", 5400),
    ("1h 30m", 5400),
    ("1h  30m ", 5400),
    ("1y1M1w1d1h1m1s", 365 * DAY + 30 * DAY + 7 * DAY + DAY + 3661),
    ("1s1ms", 1.001),
    ("1h30", 3630),
    ("1s2", 3),
    ("1 2", 3),
    ("1hm", 3600),
    (" 1", 1),
    ("100000000000s", 100_000_000_000),
]
BAD_TIMES = [
    "", " ", "s", "ms", "1x", "1.5s", "-1s", "1S", "1H", "60 s", "1m1h", "1s2s", "1M1y", "1d w", "1 2 3",
    "1 2s", " 1s", "1s 2 3", "٣s", "9223372036854776s", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text, want", TIMES, ids=str)
def test_time(text: str, want: float) -> None:
    assert parse_time(text) == want


@pytest.mark.parametrize("text", BAD_TIMES, ids=lambda text: repr(text[:20]))
def test_bad_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"nginx time|63 bits"):
        parse_time(text)


UNITS = {"y": 365 * DAY, "M": 30 * DAY, "w": 7 * DAY, "d": DAY, "h": 3600, "m": 60, "s": 1, "ms": 0.001}


@given(
    st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 99), min_size=1), st.sampled_from(["", " "])
)
def test_any_time_is_the_sum_of_its_parts(parts: dict[str, int], between: str) -> None:
    text = between.join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    assert parse_time(text) == pytest.approx(sum(parts[unit] * UNITS[unit] for unit in parts))


def test_timeout_of_nothing_is_refused() -> None:
    assert parse_positive_time("1ms") == 0.001
    with pytest.raises(ValueError, match="above 0"):
        parse_positive_time("0s")


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "1", "yes", "on", "On"])
def test_true(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "off", "Off"])
def test_false(text: str) -> None:
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "t", "y", "2", "enabled", "tru e", "\uff54rue"])
def test_neither_true_nor_false(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        parse_bool(text)


HOSTS = [
    ("gcr.io", "gcr.io"),
    ("GCR.io.", "gcr.io"),
    ("localhost", "localhost"),
    ("my_registry", "my_registry"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("127.0.0.1", "127.0.0.1"),
    ("[::1]", "::1"),
    ("::1", "::1"),
    ("[2001:DB8:0:0::1]", "2001:db8::1"),
]
BAD_HOSTS = [
    "", ".", "a..b", "-a.example", "a-.example", "bücher.example", "a b", "a/b", "user@host", "host:5000",
    "[::1", "[127.0.0.1]", "[a.example]", "a" * 64 + ".example", "a." * 127 + "a", "a\nb", "a.example\n",
    "*.example.com",
]  # fmt: skip


@pytest.mark.parametrize("text, want", HOSTS, ids=str)
def test_host(text: str, want: str) -> None:
    assert parse_host(text) == want


@pytest.mark.parametrize("text", BAD_HOSTS, ids=lambda text: repr(text[:20]))
def test_bad_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"host name|IP address|without brackets"):
        parse_host(text)


@pytest.mark.parametrize(
    "text, want",
    [
        ("reg.example", ("reg.example", None)),
        ("reg.example:5000", ("reg.example", 5000)),
        ("[::1]", ("[::1]", None)),
        ("[::1]:5000", ("[::1]", 5000)),
        ("::1", ("::1", None)),
        ("2001:db8::5000", ("2001:db8::5000", None)),
    ],
    ids=str,
)
def test_host_and_port(text: str, want: tuple[str, int | None]) -> None:
    assert split_host_port(text) == want


@pytest.mark.parametrize("text", ["0", "65536", "", "x", "-1", "443 ", "٤٤٣", "0x1bb", "000443"])
def test_bad_port(text: str) -> None:
    with pytest.raises(ValueError, match="port from 1 to 65535"):
        parse_port(text)


@pytest.mark.parametrize(
    "text, want, shown",
    [
        (":3128", Address("", 3128), ":3128"),
        ("0.0.0.0:3128", Address("0.0.0.0", 3128), "0.0.0.0:3128"),
        ("[::]:3128", Address("::", 3128), "[::]:3128"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
    ],
    ids=str,
)
def test_listen(text: str, want: Address, shown: str) -> None:
    assert parse_listen(text) == want
    assert str(want) == shown


@pytest.mark.parametrize(
    "text", ["", "3128", "::3128", "0.0.0.0", "[::]", "a b:1", ":65536", ":", "http://a:80"]
)
def test_bad_listen(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


# (rule, host, port, whether it matches)
RULES = [
    ("gcr.io", "gcr.io", 443, True),
    ("gcr.io", "GCR.IO.", 443, True),
    ("gcr.io", "eu.gcr.io", 443, False),
    ("gcr.io", "xgcr.io", 443, False),
    ("gcr.io", "gcr.io", 5000, True),
    ("reg.example:5000", "reg.example", 5000, True),
    ("reg.example:5000", "reg.example", 443, False),
    ("*.gcr.io", "eu.gcr.io", 443, True),
    ("*.gcr.io", "a.b.gcr.io", 443, True),
    ("*.gcr.io", "gcr.io", 443, False),
    ("*.gcr.io", ".gcr.io", 443, False),
    ("*.gcr.io", "eu.gcr.io.evil.example", 443, False),
    ("*.GCR.io:5000", "eu.gcr.io", 5000, True),
    ("*.gcr.io:5000", "eu.gcr.io", 443, False),
    (".gcr.io", "gcr.io", 443, True),
    (".gcr.io", "eu.gcr.io", 443, True),
    (".gcr.io", "xgcr.io", 443, False),
    ("reg.*", "reg.example", 443, True),
    ("reg.*", "reg.example.com", 443, True),
    ("reg.*", "reg", 443, False),
    ("reg.*", "reg.", 443, False),
    ("reg.*", "registry.example", 443, False),
    ("[::1]:5000", "::1", 5000, True),
    ("[::1]", "[0:0::1]", 443, True),
    ("::1", "::2", 443, False),
    ("::1", "::not-an-address", 443, False),
]


@pytest.mark.parametrize("rule, host, port, want", RULES, ids=str)
def test_rule(rule: str, host: str, port: int, want: bool) -> None:
    assert parse_rule(rule).matches(host, port) is want


@pytest.mark.parametrize("text", ["gcr.io", "*.gcr.io:5000", ".gcr.io", "reg.*", "[::1]:5000", "[::1]"])
def test_rule_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_rule(text)) == text


@pytest.mark.parametrize(
    "text, want",
    [
        (r"~^reg\d+\.example$", r"regular expressions"),
        ("*", "mask with one"),
        ("a.*.example", "mask with one"),
        ("*.*", "host name"),
        ("*.a.*", "host name"),
        ("*a.example", "mask with one"),
        ("..example", "host name"),
        ("https://gcr.io", "without https://"),
        ("gcr.io/project", "without a path"),
        ("gcr.io:https", "port from 1"),
        ("gcr.io:", "port from 1"),
        ("", "host name"),
        (".", "host name"),
    ],
    ids=str,
)
def test_bad_rule(text: str, want: str) -> None:
    with pytest.raises(ValueError, match=want):
        parse_rule(text)


def test_lists_are_separated_by_blanks_or_commas() -> None:
    want = (HostRule("a.example"), HostRule("b.example", 5000))
    assert parse_rules("a.example b.example:5000") == want
    assert parse_rules("\n A.example,\tb.example:5000, a.example.\n") == want
    assert parse_rules(("a.example", " b.example:5000")) == want
    assert parse_rules("") == ()
    assert parse_ports("443, 8443 443") == {443, 8443}


def test_an_error_in_a_list_names_the_entry() -> None:
    with pytest.raises(ValueError, match=r"'https://b' is not a host name"):
        parse_rules("a https://b c")
    with pytest.raises(ValueError, match="'a b' is not"):
        parse_rules(("a b",))


def test_resolve() -> None:
    text = "A.test=127.0.0.5 a.test=::1,b.test=[2001:DB8::1] a.test=127.0.0.5"
    assert dict(parse_resolve(text)) == {"a.test": ("127.0.0.5", "::1"), "b.test": ("2001:db8::1",)}


@pytest.mark.parametrize(
    "text", ["a.test", "a.test=", "=127.0.0.1", "a.test=b.test", "a.test=127.1", "*.a=::1"]
)
def test_bad_resolve(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_resolve(text)


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


def test_words_of_single_settings() -> None:
    assert parse_directory("/ca/") == "/ca" and parse_directory("/") == "/"
    assert parse_optional_path("") is None and parse_optional_path("/a b") == "/a b"
    assert [parse_log(text) for text in ("-", "OFF", "/var/log/a.json")] == ["-", "off", "/var/log/a.json"]
    assert [parse_workers(text) for text in ("auto", "0", "4", "1024")] == [0, 0, 4, 1024]
    assert [parse_level(text) for text in ("INFO", "warn", "warning")] == ["info", "warning", "warning"]


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_directory, "a\0b"),
        (parse_optional_path, "\0"),
        (parse_log, ""),
        (parse_workers, "-1"),
        (parse_workers, "1025"),
        (parse_workers, "٤"),
        (parse_level, "trace"),
        (parse_log_style, "xml"),
        (parse_reserve, ""),
        (parse_reserve, "101%"),
        (parse_reserve, "-1"),
        (parse_reserve, "1.5%"),
        (parse_reserve, "10 %"),
        (parse_reserve, "٤"),
        (parse_address, "localhost"),
    ],
)
def test_bad_words(parse: object, text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text, want", [("10%", 20), ("100%", 200), ("0%", 0), ("20", 20), ("0", 0), ("5000", 200)]
)
def test_a_reserve(text: str, want: float) -> None:
    assert parse_reserve(text).of(200) == want
    assert parse_reserve(text) == Reserve(int(text.rstrip("%")), text.endswith("%"))


@pytest.mark.parametrize(
    "parse",
    [parse_size, parse_time, parse_bool, parse_listen, parse_rule, parse_rules, parse_ports, parse_resolve],
)
@given(text=ANY_TEXT)
def test_any_text_is_parsed_or_a_value_error(parse: object, text: str) -> None:
    try:
        parse(text)  # type: ignore[operator]
    except ValueError as error:
        assert str(error)


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


@pytest.mark.parametrize("text", ["off, reg.example", "true", "reg.example no", "*"])
def test_what_is_no_list_of_plain_redirects(text: str) -> None:
    with pytest.raises(ValueError, match=r"off alone|a mask with one"):
        parse_plain_redirects(text)

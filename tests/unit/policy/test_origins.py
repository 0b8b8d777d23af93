"""[origin."host"] tables, parent proxies, and the ways to origins that they make: values alone."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable

import pytest

from regproxy.config.origin_tables import KEYS, Mirror, OriginSettings
from regproxy.config.parent_proxy import NoProxy, ParentProxy, parse_no_proxy, parse_parent_proxy
from regproxy.config.settings import describe, load
from regproxy.core.errors import ConfigError
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins, Place

REG = Origin("https", "reg.example", 443)
PORT = Origin("https", "reg.example", 5000)
PROXY = ParentProxy("proxy.lan", 3128)


def origins(toml: str, **env: str) -> Origins:
    return Origins(load(env, toml))


def table(text: str, name: str = "reg.example") -> str:
    return f'[origin."{name}"]\n{text}'


@pytest.mark.parametrize(
    ("toml", "asked", "want"),
    [
        ("", REG, "REGPROXY_UPSTREAM_CA_FILE"),
        (table("connect_timeout = 5"), REG, "REGPROXY_UPSTREAM_CA_FILE"),
        (table('ca_file = "/own.pem"'), REG, 'ca_file of [origin."reg.example"]'),
        (table('ca_file = "/own.pem"'), PORT, 'ca_file of [origin."reg.example"]'),
        (table('ca_file = "/own.pem"', "reg.example:5000"), PORT, 'ca_file of [origin."reg.example:5000"]'),
        (table('ca_file = "/own.pem"', "reg.example:5000"), REG, "REGPROXY_UPSTREAM_CA_FILE"),
    ],
)
def test_which_setting_names_the_cas(toml: str, asked: Origin, want: str) -> None:
    assert origins(toml, REGPROXY_UPSTREAM_CA_FILE="/all.pem").ca_setting(asked) == want


# --- the tables ------------------------------------------------------------------------------------------

# (line of the table, field, wanted)
VALUES = [
    ('scheme = "http"', "scheme", "http"),
    ('scheme = "HTTPS"', "scheme", "https"),
    ('address = "10.0.0.1"', "address", "10.0.0.1"),
    ('address = "[2001:DB8::1]"', "address", "2001:db8::1"),
    ('address = "Inner.Lan."', "address", "inner.lan"),
    ("port = 5000", "port", 5000),
    ('port = "5000"', "port", 5000),
    ('ca_file = "/etc/ca.pem"', "ca_file", "/etc/ca.pem"),
    ('client_cert_file = "/etc/c.pem"', "client_cert_file", "/etc/c.pem"),
    ('client_cert_file = "/etc/c.pem"', "client_key_file", "/etc/c.pem"),
    ('client_cert_file = "/c"\nclient_key_file = "/k"', "client_key_file", "/k"),
    ("verify = false", "verify", False),
    ("connect_timeout = 5", "connect_timeout", 5.0),
    ('read_timeout = "1m 30s"', "read_timeout", 90.0),
    ('send_timeout = "500ms"', "send_timeout", 0.5),
    ('parent_proxy = "http://proxy.lan:3128"', "parent_proxy", PROXY),
    ('parent_proxy = ""', "parent_proxy", None),
    ("", "parent_proxy", "inherit"),
    ('mirrors = ["https://m.example"]', "mirrors", (Mirror("https", "m.example", 443),)),
    ('mirrors = ["http://M.example:5000/"]', "mirrors", (Mirror("http", "m.example", 5000),)),
    ('mirrors = ["https://m.example/a/b/"]', "mirrors", (Mirror("https", "m.example", 443, "/a/b"),)),
    ('mirrors = ["https://[::1]:1", "https://[::1]:1"]', "mirrors", (Mirror("https", "::1", 1),)),
    ("mirrors = []", "mirrors", ()),
    ('credentials_first = "proxy"', "credentials_first", "proxy"),
    ("", "credentials_first", "client"),
    ("", "credentials", None),
    ('access = "Verified"', "access", "verified"),
    ("", "access", None),
]


@pytest.mark.parametrize("line, field, want", VALUES, ids=lambda value: repr(value)[:40])
def test_values(line: str, field: str, want: object) -> None:
    assert getattr(origins(table(line)).settings(REG), field) == want


def test_every_key_is_tried() -> None:
    assert {field for _, field, _ in VALUES} == set(KEYS)


def test_credentials_are_a_source() -> None:
    source = origins(table('credentials = {username = "u", password = "p"}')).settings(REG).credentials
    assert source is not None


def test_what_a_table_does_not_say_is_as_for_all() -> None:
    env = {
        "PROXY_CONNECT_TIMEOUT": "1",
        "PROXY_READ_TIMEOUT": "2",
        "PROXY_SEND_TIMEOUT": "3",
        "VERIFY_SSL": "false",
        "REGPROXY_UPSTREAM_CA_FILE": "/all.pem",
    }
    found = origins(table("read_timeout = 9"), **env)
    want = OriginSettings(1.0, 2.0, 3.0, verify=False, ca_file="/all.pem")
    assert found.settings(Origin("https", "other.example", 443)) == want
    assert found.settings(REG) == OriginSettings(1.0, 9.0, 3.0, verify=False, ca_file="/all.pem")


def test_a_table_with_a_port_goes_before_one_without() -> None:
    found = origins(table("read_timeout = 1") + "\n" + table("read_timeout = 2", "Reg.Example:5000"))
    assert [found.settings(each).read_timeout for each in (REG, PORT)] == [1.0, 2.0]
    assert found.settings(Origin("https", "sub.reg.example", 443)).read_timeout == 60.0


@pytest.mark.parametrize("name, host", [("[2001:db8::1]:5000", "2001:db8::1"), ("10.0.0.1:5000", "10.0.0.1")])
def test_addresses_have_tables_too(name: str, host: str) -> None:
    found = origins(table("read_timeout = 1", name))
    assert found.settings(Origin("https", host, 5000)).read_timeout == 1.0
    assert found.settings(Origin("https", host, 443)).read_timeout == 60.0


# (TOML text, what the error says)
ERRORS = [
    ("origin = 1", "f.toml: origin: tables, such as [origin."),
    ("[origin]\na = 1", "f.toml: origin: tables, such as"),
    (table("", "*.example"), 'f.toml: origin."*.example": not the name of one host: no masks here'),
    (table("", ".example"), "no masks here"),
    (table("", "https://reg.example"), "not a host name or IP address, without https://"),
    (table("", "reg.example:0"), "not a port from 1 to 65535; a table is named by a host, or host:port"),
    (table("") + table("", "REG.example."), 'f.toml: origin."REG.example.": a second table of the same host'),
    (
        "[origin.reg.example]\nport = 1",
        'origin."reg".example: no such setting of an origin; a host is written',
    ),
    (table("adress = 1"), 'origin."reg.example".adress: no such setting of an origin; did you mean address?'),
    (table("mirror = []"), "did you mean mirrors?"),
    (table("zzz = 1"), "no such setting of an origin; there are scheme, address, port,"),
    (table('scheme = "ftp"'), 'f.toml: origin."reg.example".scheme: https or http'),
    (table("scheme = 1"), "a string, not a TOML number"),
    (table('address = "a.example:5000"'), 'a host name or IP address; its port is "port"'),
    (table('address = "http://a.example"'), "a host name or IP address, without https://"),
    (table('address = ""'), "a host name or IP address"),
    (table("port = 0"), "a port from 1 to 65535"),
    (table("port = true"), "a port from 1 to 65535, not a TOML boolean"),
    (table("ca_file = ''"), "ca_file: a path"),
    (table("ca_file = []"), "a string, not a TOML array"),
    (table('client_key_file = "/k"'), "client_key_file: a key needs its certificate: set client_cert_file"),
    (table("verify = 'false'"), "true or false, not a TOML string"),
    (table("connect_timeout = 0"), "connect_timeout: a time above 0"),
    (table("connect_timeout = 1.5"), 'a time such as "90s", or seconds as a number, not a TOML number'),
    (table('read_timeout = "90t"'), "read_timeout: an nginx time"),
    (table('parent_proxy = "https://p:1"'), "parent_proxy: http://host:port or http://user:password@host"),
    (table('parent_proxy = "socks5://p:1"'), "or SOCKS, is not supported"),
    (table('mirrors = "https://m.example"'), "mirrors: an array of URLs, not a TOML string"),
    (table('mirrors = ["https://a", "m.example"]'), "entry 2 of 2 is not https://host, https://host:port"),
    (table("mirrors = [1]"), "entry 1 of 1 is not a string, not a TOML number"),
    (table('mirrors = ["https://m.example/v2/"]'), "a URL without /v2, which is added"),
    (table('mirrors = ["https://m.example/../x"]'), "a URL whose path is plain"),
    (table('mirrors = ["https://m.example/?a=b"]'), "entry 1 of 1 is not https://host"),
    (table('mirrors = ["https://m.example:0/"]'), "entry 1 of 1 is not https://host"),
    (table('credentials_first = "both"'), "credentials_first: client or proxy"),
    (table("credentials = 1"), 'origin."reg.example".credentials: '),
    (table('scheme = "http"\nverify = false'), 'verify: scheme = "http" has no TLS that it could be for'),
    (table('scheme = "http"\nca_file = "/a"'), 'ca_file: scheme = "http" has no TLS'),
]


@pytest.mark.parametrize("toml, want", ERRORS, ids=lambda value: repr(value)[-50:])
def test_errors(toml: str, want: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(want)):
        load({}, toml, "f.toml")


def test_all_errors_of_all_tables_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"SEND_TIMEOUT": "x"}, table("port = 0\nzzz = 1") + "\n" + table("port = 0", "b"), "f.toml")
    assert len(str(caught.value).splitlines()) == 4


SECRETS = [
    table('parent_proxy = "http://hunter1:hunter2@p:port"'),
    table('parent_proxy = "https://hunter1:hunter2@p:1"'),
    table('parent_proxy = "http://hunter1:hunter2@p:1/path"'),
    table('parent_proxy = "http://hunter%3A1:hunter2@p:1"'),
    table('mirrors = ["https://hunter1:hunter2@m.example"]'),
    table('credentials = {username = "hunter1", password = "hunter2", zzz = "hunter3"}'),
    table('credentials = {username = "hunter1"}'),
]


@pytest.mark.parametrize("toml", SECRETS)
def test_errors_tell_no_secret(toml: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, toml)
    assert "hunter" not in f"{caught.value!s}{caught.value!r}{caught.value.value}"


def test_nothing_else_tells_a_secret() -> None:
    toml = table(
        'parent_proxy = "http://hunter1:hunter2@proxy.lan:8080"\n'
        'credentials = {username = "hunter3", password = "hunter4"}'
    )
    config = load({"HTTPS_PROXY": "http://hunter5:hunter6@other.lan:8080"}, toml)
    settings = Origins(config).settings(REG)
    found = (
        f"{config!r}{config}{describe(config)}{settings!r}{settings.parent_proxy}{Origins(config).way(REG)}"
    )
    assert "hunter" not in found
    for pair in ("hunter1:hunter2", "hunter3:hunter4", "hunter5:hunter6"):
        assert b64encode(pair.encode()).decode() not in found
    assert "proxy.lan:8080" in found


def test_check_config_shows_the_tables() -> None:
    toml = table('scheme = "http"\nport = 5000\nmirrors = ["https://a", "https://b"]\nparent_proxy = ""')
    rows = {name: (text, where) for name, text, where in describe(load({}, toml))}
    label = 'origin."reg.example"'
    assert rows[f"{label}.scheme"] == ("http", "toml")
    assert rows[f"{label}.port"] == ("5000", "toml")
    assert rows[f"{label}.mirrors"] == ("https://a https://b", "toml")
    assert rows[f"{label}.parent_proxy"] == ("", "toml")


def test_who_is_not_verified_is_warned_about() -> None:
    assert load({}, table("verify = false")).warnings[0].startswith("reg.example: verify is off")


# --- places ----------------------------------------------------------------------------------------------


def test_places() -> None:
    found = origins(
        table('mirrors = ["https://m.example/docker", "http://n.lan:5000", "https://reg.example"]')
    )
    first, second, last = found.places(REG)
    assert first == Place(Origin("https", "m.example", 443), "/docker", True)
    assert second == Place(Origin("http", "n.lan", 5000), "", True)
    assert last == Place(REG)
    assert first.path("/v2/a/blobs/x?y") == "/docker/v2/a/blobs/x?y"
    assert found.places(Origin("https", "other.example", 443)) == (
        Place(Origin("https", "other.example", 443)),
    )


@pytest.mark.parametrize("status, want", [(200, True), (206, True), (416, True), (404, False), (401, False)])
def test_what_a_mirror_has_to_answer(status: int, want: bool) -> None:
    assert Place(REG, mirror=True).settles(status) is want
    assert Place(REG).settles(status)


def test_patience_is_that_of_the_slowest() -> None:
    toml = table('connect_timeout = 100\nmirrors = ["https://m.example"]')
    assert origins(toml + "\n" + table("read_timeout = 200", "m.example")).patience == 300.0
    assert origins("").patience == 60.0


# --- ways ------------------------------------------------------------------------------------------------

# (lines of reg.example's table, origin, (scheme, host, port))
WAYS = [
    ("", REG, ("https", "reg.example", 443)),
    ("", PORT, ("https", "reg.example", 5000)),
    ("port = 8443", PORT, ("https", "reg.example", 8443)),
    ('address = "10.0.0.1"', REG, ("https", "10.0.0.1", 443)),
    ('scheme = "http"', REG, ("http", "reg.example", 80)),
    ('scheme = "http"', PORT, ("http", "reg.example", 5000)),
    ('scheme = "http"\nport = 443', REG, ("http", "reg.example", 443)),
    ('scheme = "http"\nport = 5000\naddress = "inner"', REG, ("http", "inner", 5000)),
    ("", Origin("http", "reg.example", 80), ("http", "reg.example", 80)),
]


@pytest.mark.parametrize("lines, origin, want", WAYS)
def test_ways(lines: str, origin: Origin, want: tuple[str, str, int]) -> None:
    way = origins(table(lines)).way(origin)
    assert (way.scheme, way.host, way.port) == want


def test_a_tunnel_has_the_network_of_a_table_alone() -> None:
    toml = table('scheme = "http"\nport = 5000\naddress = "inner"\nparent_proxy = "http://proxy.lan"')
    way = origins(toml).tunnel("reg.example", 443)
    assert (way.scheme, way.host, way.port, way.proxy) == ("https", "inner", 443, PROXY)


def test_plain_is_what_is_said_to_be() -> None:
    found = origins(table('scheme = "http"'))
    assert found.plain(REG) and found.plain(Origin("http", "reg.example", 80))
    assert not found.plain(Origin("http", "other.example", 80))
    assert found.canonical(Origin("http", "reg.example", 80)) == REG
    assert found.canonical(Origin("http", "reg.example", 5000)) == PORT
    assert found.canonical(Origin("http", "other.example", 80)) == Origin("http", "other.example", 80)
    assert found.canonical(PORT) == PORT


@pytest.mark.parametrize("name, port", [("reg.example:443", 443), ("reg.example:80", 80)])
def test_plain_is_one_port_where_a_table_has_one(name: str, port: int) -> None:
    found = origins(table('scheme = "http"', name))
    assert found.canonical(Origin("http", "reg.example", 80)) == Origin("https", "reg.example", port)
    assert found.canonical(Origin("http", "reg.example", 5000)) == Origin("http", "reg.example", 5000)


def test_a_plain_mirror_with_a_table_is_one_origin() -> None:
    toml = table('mirrors = ["http://m.example"]') + "\n" + table('scheme = "http"', "m.example")
    found = origins(toml)
    place = found.places(REG)[0]
    assert place.origin == found.canonical(Origin("http", "m.example", 80))
    assert (found.way(place.origin).scheme, found.way(place.origin).port) == ("http", 80)


def test_who_is_named_may_have_any_address() -> None:
    found = origins(table('mirrors = ["https://m.example"]') + "\n" + table('address = "inner"', "b.example"))
    named = {host: found.way(Origin("https", host, 443)).named for host in ("reg.example", "m.example")}
    assert named == {"reg.example": True, "m.example": True}
    assert found.way(Origin("https", "b.example", 443)).named
    assert found.tunnel("b.example", 443).named
    assert not found.way(Origin("https", "other.example", 443)).named
    assert not found.way(Origin("https", "m.example", 5000)).named


# --- parent proxies --------------------------------------------------------------------------------------

# (text, host, port, user:password)
PROXIES = [
    ("http://p.lan:8080", "p.lan", 8080, None),
    ("http://P.lan:8080/", "p.lan", 8080, None),
    ("http://p.lan", "p.lan", 3128, None),
    ("p.lan:8080", "p.lan", 8080, None),
    ("http://[::1]:8080", "::1", 8080, None),
    ("http://u:p@p.lan:8080", "p.lan", 8080, "u:p"),
    ("http://u:@p.lan:8080", "p.lan", 8080, "u:"),
    ("http://u%40x:p%3A%2F@p.lan:8080", "p.lan", 8080, "u@x:p:/"),
]


@pytest.mark.parametrize("text, host, port, pair", PROXIES)
def test_proxies(text: str, host: str, port: int, pair: str | None) -> None:
    basic = b"Basic " + b64encode(pair.encode()) if pair else b""
    assert parse_parent_proxy(text) == ParentProxy(host, port, basic)


def test_connect() -> None:
    proxy = ParentProxy("p", 1, b"Basic dTpw")
    assert proxy.connect_head("2001:db8::1", 443) == (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"
        b"Proxy-Authorization: Basic dTpw\r\n\r\n"
    )
    assert b"Proxy" not in PROXY.connect_head("reg.example", 443)


BAD_PROXIES = [
    "https://p:1",
    "http://",
    "http://p:0",
    "http://p:x",
    "http://p/x",
    "http://p?x",
    "http://a b:1",
]
BAD_PROXIES += ["socks5://p:1", "http://p:99999", "http://u%0d%0a:p@p:1", "http://[::1:1"]


@pytest.mark.parametrize("text", BAD_PROXIES)
def test_bad_proxies(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(http://host:port|a user without)"):
        parse_parent_proxy(text)


# (NO_PROXY, host, port, whether it matches)
NO_PROXIES = [
    ("", "a.example", 443, False),
    ("*", "a.example", 443, True),
    ("a.example", "a.example", 443, True),
    ("a.example", "x.a.example", 443, True),
    ("a.example", "xa.example", 443, False),
    (".a.example", "a.example", 443, False),
    (".a.example", "x.a.example", 443, True),
    ("*.a.example", "x.y.a.example", 443, True),
    ("A.Example:5000", "a.example", 5000, True),
    ("a.example:5000", "a.example", 443, False),
    ("x, 10.0.0.0/8", "10.1.2.3", 443, True),
    ("10.0.0.0/8", "11.1.2.3", 443, False),
    ("10.0.0.0/8", "a.example", 443, False),
    ("10.0.0.1", "10.0.0.1", 443, True),
    ("10.0.0.1:80", "10.0.0.1", 443, False),
    ("10.0.0.1", "::ffff:10.0.0.1", 443, True),
    ("2001:db8::/32", "2001:db8::1", 443, True),
    ("[2001:db8::1]", "2001:db8::1", 443, True),
    ("[2001:db8::1]:80", "2001:db8::1", 443, False),
    ("[2001:db8::]/32", "2001:db8::1", 443, True),
    ("a.example;b.example", "b.example", 443, True),
    ("a.example|b.example", "b.example", 443, True),
    (";; ,", "b.example", 443, False),
    ('"a.example,b.example"', "b.example", 443, True),
    ("https://a.example/", "a.example", 443, True),
    ("https://a.example/", "x.a.example", 443, True),
    ("https://u:p@a.example:5000/v2/", "a.example", 5000, True),
    ("https://a.example:5000/v2/", "a.example", 443, False),
    ("http://10.0.0.1", "10.0.0.1", 443, True),
    ("<local>", "registry", 443, True),
    ("<local>", "registry.lan", 443, False),
    ("<local>", "2001:db8::1", 443, False),
    ("<local>;*.lan", "registry.lan", 443, True),
    ("10.*", "10.1.2.3", 443, True),
    ("10.*", "100.1.2.3", 443, False),
    ("10.*", "10.example", 443, False),
    ("192.168.*.*", "192.168.3.4", 443, True),
    ("192.168.", "192.168.3.4", 443, True),
    ("192.168/16", "192.168.3.4", 443, True),
    ("172.16.0.0/255.240.0.0", "172.31.1.1", 443, True),
    ("*a.example", "x.a.example", 443, True),
    ("a.example:*", "a.example", 5000, True),
    ("a.example.", "a.example", 443, True),
]


@pytest.mark.parametrize("text, host, port, want", NO_PROXIES)
def test_no_proxy(text: str, host: str, port: int, want: bool) -> None:
    assert parse_no_proxy(text).matches(host, port) is want


@pytest.mark.parametrize("text", ["a..b", "http://", "10.0.0.0/99", "300.*", "10/8/8", "a*b", "a:x"])
def test_bad_no_proxy(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host name, an address, a network such as"):
        parse_no_proxy(text)


def test_no_proxy_of_a_list() -> None:
    assert parse_no_proxy(("*",)) == NoProxy(everybody=True)


ENV = {"HTTPS_PROXY": "http://proxy.lan:3128", "NO_PROXY": "direct.example, 10.0.0.0/8"}

# (lines of reg.example's table, origin, the proxy)
INHERITED = [
    ("", REG, PROXY),
    ("", Origin("https", "direct.example", 443), None),
    ("", Origin("https", "10.1.1.1", 443), None),
    ("", Origin("https", "localhost", 443), None),
    ("", Origin("https", "127.0.0.1", 443), None),
    ("", Origin("https", "::1", 443), None),
    ("", Origin("http", "m.example", 80), None),
    ('address = "10.0.0.1"', REG, None),
    ('address = "x.direct.example"', REG, None),
    ('scheme = "http"', REG, None),
    ('parent_proxy = ""', REG, None),
    ('parent_proxy = "http://other.lan:1"', REG, ParentProxy("other.lan", 1)),
    ('parent_proxy = "http://other.lan:1"\nscheme = "http"', REG, ParentProxy("other.lan", 1)),
    ('parent_proxy = "http://other.lan:1"\naddress = "127.0.0.1"', REG, ParentProxy("other.lan", 1)),
]


@pytest.mark.parametrize("lines, origin, want", INHERITED)
@pytest.mark.parametrize("case", [str.upper, str.lower], ids=["upper", "lower"])
def test_the_environments_proxy(
    lines: str, origin: Origin, want: ParentProxy | None, case: Callable[[str], str]
) -> None:
    env = {case(name): value for name, value in ENV.items()}
    assert origins(table(lines), **env).way(origin).proxy == want


def test_a_name_that_is_fixed_at_a_loopback_address_is_reached_directly() -> None:
    env = ENV | {"REGPROXY_RESOLVE": "reg.example=127.0.0.1 b.example=192.0.2.1 c.example=10.0.0.1"}
    ways = {
        host: origins("", **env).tunnel(host, 443).proxy for host in ("reg.example", "b.example", "c.example")
    }
    assert ways == {"reg.example": None, "b.example": PROXY, "c.example": None}


@pytest.mark.parametrize("listen", ["[::]:3128", ":3128", "0.0.0.0:3128", "localhost:3128", "127.0.0.1:3128"])
def test_a_proxy_never_goes_through_itself(listen: str) -> None:
    env = {"REGPROXY_LISTEN": listen, "HTTPS_PROXY": "http://localhost:3128"}
    config = load(env)
    assert config.parent_proxy is None
    assert config.warnings == ("HTTPS_PROXY is this proxy itself, and is not used",)
    assert load(env | {"HTTPS_PROXY": "http://192.0.2.9:3128"}).parent_proxy is not None
    assert load(env | {"HTTPS_PROXY": "http://localhost:3127"}).parent_proxy is not None
    assert load(env | {"REGPROXY_LISTEN": "192.0.2.1:3128"}).parent_proxy is not None
    own = {"REGPROXY_LISTEN": "192.0.2.1:3128", "HTTPS_PROXY": "http://192.0.2.1:3128"}
    assert load(own).parent_proxy is None

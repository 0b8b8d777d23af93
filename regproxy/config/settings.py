"""Define every setting: its name, default and meaning, and the Config that they make.

The names and defaults of docker-registry-proxy's variables are kept; new ones start with REGPROXY_. A TOML
key is the variable's name in lower case, without `regproxy_` (with it is accepted too). The environment
overrides the file. An empty variable counts as not set, except where the empty text is a value of its own: an
empty list, or a tier that is switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from msgspec import Struct

from regproxy.config.drop_in import (
    Noted,
    parse_ca_file,
    parse_cache_size,
    parse_delimiter,
    parse_https_proxy,
    parse_inactive,
    parse_keepalive,
    parse_no_proxy,
    parse_quoted,
    parse_registries,
    parse_serial_file,
    parse_switch,
    parse_tier_time,
    parse_timeout,
    parse_verify,
)
from regproxy.config.hosts import DOCKER_HUB_REGISTRY, DOCKER_HUB_TOKENS, OWN_HOST
from regproxy.config.image_rules import RuleSet
from regproxy.config.misspelt import PREFIX
from regproxy.config.origin_tables import Tables
from regproxy.config.parent_proxy import NoProxy, ParentProxy
from regproxy.config.principal_tables import PrincipalTables
from regproxy.config.signing_keys import KeySource
from regproxy.config.tag_tiers import Tier
from regproxy.config.values.host_rules import Address, HostRule, parse_listen
from regproxy.config.values.lists import (
    Raw,
    parse_ca_names,
    parse_header_masks,
    parse_listens,
    parse_mirror_registries,
    parse_networks,
    parse_plain_redirects,
    parse_ports,
    parse_resolve,
    parse_rules,
)
from regproxy.config.values.login_entries import Credential
from regproxy.config.values.networks import Network
from regproxy.config.values.numbers import (
    Reserve,
    parse_bool,
    parse_min_free,
    parse_positive_time,
    parse_reserve,
    parse_size,
    parse_streams,
    parse_time,
    parse_workers,
)
from regproxy.config.values.words import (
    ClientCerts,
    LogFormat,
    LoginFor,
    LogLevel,
    LogStyle,
    Outage,
    PrivateTargets,
    Records,
    UnknownClients,
    parse_access,
    parse_client_certs,
    parse_directory,
    parse_groups,
    parse_level,
    parse_log,
    parse_log_format,
    parse_log_style,
    parse_login_for,
    parse_optional_path,
    parse_outage,
    parse_private_targets,
    parse_records,
    parse_unknown,
)

# Where the value of a setting was given.
ValueSource = Literal["env", "toml", "default"]

# Docker Hub, what crane, kaniko, ko and cosign call it, its token server; Docker's hardened images.
ALWAYS_INTERCEPTED = (
    *(DOCKER_HUB_REGISTRY, "index.docker.io", DOCKER_HUB_TOKENS, "dhi.io"),
    OWN_HOST,
)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. Times are seconds, sizes bytes, hosts lower case without brackets."""

    listen: Address
    admin_listen: Address
    admin_token_file: str | None
    admin_read_token_file: str | None
    transparent_listen: tuple[Address, ...]
    tls_listen: tuple[Address, ...]
    tls_names: tuple[HostRule, ...]
    tls_cert_file: str | None
    tls_key_file: str | None
    cache_dir: str | None
    ca_dir: str | None
    ca_key_file: str | None
    ca_crt_file: str | None
    ca_passphrase_file: str | None
    ca_constraints: bool
    ca_names: tuple[HostRule, ...]
    upstream_ca_file: str | None
    resolve: Mapping[str, tuple[str, ...]]
    workers: int
    hang_timeout: float
    drain_timeout: float
    access_log: str
    access_log_format: LogFormat
    audit_log: str
    audit_idle: float
    log_level: LogLevel
    log_format: LogStyle
    tls_records: Records
    tls_groups: str

    # Intercepted hosts, reachable hosts, and credentials for them.
    registries: tuple[HostRule, ...]
    connect_ports: frozenset[int]
    allow_targets: tuple[HostRule, ...]
    private_targets: PrivateTargets
    mirror_registries: tuple[HostRule, ...] | None
    http_redirects: tuple[HostRule, ...] | None
    credentials: tuple[Credential, ...]
    docker_config: str | None
    login_for: LoginFor
    parent_proxy: ParentProxy | None
    no_proxy: NoProxy
    origin_tables: Tables
    signing_keys: Mapping[str, KeySource]

    # Caching and retention.
    manifest_cache: bool
    ignored_headers: tuple[bytes, ...]
    tiers: tuple[Tier, ...]
    max_stale: float
    keep_on_404: bool
    offline: bool
    cache_max_size: int
    cache_inactive: float
    min_free: int | None
    quota_reserve: Reserve

    # Downloads: the number of streams for one content, and retries of one that breaks.
    fill_streams: int
    resume_time: float
    min_rate: int
    min_rate_time: float

    allow_push: bool
    cache_pushes: bool

    # Who clients are: see policy.principals.
    principals: PrincipalTables
    htpasswd: str | None
    unknown_clients: UnknownClients
    proxy_protocol: tuple[Network, ...]
    client_ca_file: str | None
    client_certs: ClientCerts

    # Who may have what: see policy.access.
    access_ttl: float
    access_outage: Outage
    access_grace: float
    image_rules: RuleSet

    request_buffering: bool
    verify_ssl: bool
    disable_ipv6: bool

    # Between two operations on one connection, as in nginx.
    send_timeout: float
    client_body_timeout: float
    client_header_timeout: float
    keepalive_timeout: float
    repeat_answers: bool
    proxy_read_timeout: float
    proxy_connect_timeout: float
    proxy_send_timeout: float
    first_byte_timeout: float
    stale_after: float
    tunnel_read_timeout: float
    tunnel_connect_timeout: float
    tunnel_send_timeout: float

    debug: bool
    debug_hub: bool
    debug_listen: Address
    debug_hub_listen: Address
    debug_password_file: str | None
    debug_credentials: bool
    debug_nginx: bool

    warnings: tuple[str, ...] = ()
    shown: tuple[tuple[str, str, ValueSource], ...] = field(default=(), repr=False, compare=False)
    read_as: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """By name, what settings mean whose text, in `shown`, says something else."""

    @property
    def mirrored(self) -> tuple[HostRule, ...]:
        """The registries that requests without CONNECT may ask for."""
        return self.registries if self.mirror_registries is None else self.mirror_registries


def describe(config: Config) -> list[tuple[str, str, ValueSource]]:
    """Return (name, value as written, source) of every setting, in SETTINGS' order, then of origins.

    The value of a secret is "(set)", or empty if there is none.
    """
    return list(config.shown)


def _text(parse: Callable[[str], Any]) -> Callable[[Raw], Any]:
    """Return a parser of one text without surrounding blanks."""

    def parse_one(raw: Raw) -> Any:
        return parse(cast(str, raw).strip())

    return parse_one


def _verbatim(raw: Raw) -> Raw:
    return raw


def _registries(raw: Raw) -> tuple[HostRule, ...] | Noted:
    found = parse_registries(raw)
    rules = found.value if isinstance(found, Noted) else found
    every = tuple(dict.fromkeys([*map(HostRule, ALWAYS_INTERCEPTED), *rules]))
    return Noted(every, found.notes, found.read_as) if isinstance(found, Noted) else every


class Setting(Struct, frozen=True):
    """A setting's name in the environment, its default as written there, and its meaning in one line.

    `field` is Config's field; empty if several settings make one. `many`: a list, in TOML too. `blank`: the
    empty text is a value, as it is for every list. A `secret` is never shown.
    """

    name: str
    field: str
    default: str
    meaning: str
    parse: Callable[[Raw], Any]
    many: bool = False
    blank: bool = False
    secret: bool = False

    @property
    def key(self) -> str:
        """The name in a TOML file."""
        return self.name.removeprefix(PREFIX).lower()


_BOOL, _SIZE, _TIME = _text(parse_bool), _text(parse_size), _text(parse_time)
_TIMEOUT, _LISTEN, _FILE = _text(parse_positive_time), _text(parse_listen), _text(parse_optional_path)
_DIRECTORY, _FORMAT = _text(parse_directory), _text(parse_log_format)
_OUTAGE, _PRIVATE = _text(parse_outage), _text(parse_private_targets)
_SWITCH, _WAIT, _KEEP, _CA_FILE = parse_switch, parse_timeout, parse_keepalive, parse_ca_file

# Defaults and meanings that are too long for a row.
_REGISTRIES = "registry.k8s.io gcr.io quay.io ghcr.io"
_PRIMARY = "(stable|nightly|production|test)"
_SECONDARY = r"(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+"
_CACHE_MEANING = (
    "where content is kept; not set = /docker_mirror_cache if writable, else the user's XDG cache"
)
_CA_MEANING = "where the CA's files are; not set = /ca if writable, else the user's XDG data directory"
_TOKEN_MEANING = "has the admin API's token, for every host; not set = one is made, for this machine alone"
_READ_TOKEN_MEANING = "the same of its token for reading alone"
_SECRET_MEANING = "its first line is the passphrase of the CA's key; not set = the key is not encrypted"
_CONSTRAINTS_MEANING = "whether a CA that is made here may sign only the names that are intercepted"
_CA_NAMES_MEANING = "names that it may sign besides, for later; *.example.com is all of that domain"
_HANG_MEANING = "a worker that is silent for so long is replaced"
_DEBUG_PASSWORD_MEANING = "its first line is their password; not set = state/debug.password in the cache"
_DEBUG_SHOWS_MEANING = "whether these pages show credentials, instead of masking them"
_DRAIN_MEANING = "how long requests may go on after SIGTERM; what is left then is cut"
_PORTS_MEANING = "ports that clients may CONNECT to; * = every port"
_HOSTS_MEANING = "hosts to intercept besides Docker Hub's; masks and :port are taken"
_LOGIN_MEANING = "whose requests get the credentials: pull = pulls, push = pushes too where ALLOW_PUSH=true"
_TARGETS_MEANING = "hosts that may be at loopback, link-local, metadata and private addresses"
_PRIVATE_MEANING = "who may be at private addresses: allow (all), registries (intercepted or named), deny"
_PLAIN_MEANING = "registries whose http:// redirects are followed for tags too, not just digests; off = none"
_FREE_MEANING = "bytes of the disk that the cache leaves free; auto = 1g or 5 % of it, the smaller"
_PROXY_MEANING = "http://[user:password@]host:port of a proxy that upstream is reached through"
_RESERVE_MEANING = "what is left of a registry's quota when tags begin to last longer; 0 = they never do"
_SWR_MEANING = "how long past its time a tag of the first tier is served while it is revalidated"
_STALE_MEANING = "how long past its time a tag is served while upstream is in trouble; 0 = never"
_FIRST_BYTE_MEANING = "longest wait for content by digest to begin, where PROXY_READ_TIMEOUT is shorter"
_STALE_AFTER_MEANING = "a held tag is served stale when upstream has said nothing for so long; 0 = never"
_IGNORE_MEANING = "client headers to drop, instead of passing such requests on uncached; x-foo-* is a mask"
_KEEP_MEANING = "serve what is held of a tag that upstream says is gone, instead of that 404"
_REPEAT_MEANING = "answer heads that come again within a second from memory, without a look-up"
_OFFLINE_MEANING = "ask no registry: serve what is held, whatever its age"
_STREAMS_MEANING = "connections for one large blob whose origin is slow; twice as many for parallel ranges"
_RESUME_MEANING = "a broken download is resumed until it has brought nothing for so long; 0 = never"
_RATE_MEANING = "bytes/s; a body that is slower is broken off and asked for again; 0 = any"
_GROUPS_MEANING = "key agreement with clients, best first, as OpenSSL names it; empty = its best"
_RECORDS_MEANING = (
    "who makes and opens TLS records: auto = the proxy's own code where it pays, openssl = OpenSSL"
)
_TLS_MEANING = "addresses (host:port) for clients that speak TLS to the proxy: https:// proxies, mirrors"
_NAMES_MEANING = "the proxy's own names there; not set = the machine's, localhost and REGPROXY_TLS_LISTEN's"
_TLS_CERT_MEANING = "certificate to show there, PEM with its chain; not set = one by the proxy's own CA"
_PUSHED_MEANING = "keep what is pushed through this proxy, once the registry has taken it"
_MIRROR_MEANING = "whom requests without CONNECT may ask for; not set = those in REGISTRIES; off = nobody"
_DNS_MEANING = "addresses (host:port) for clients without CONNECT, whom DNS sends here for a registry"
_HTPASSWD_MEANING = "htpasswd file (bcrypt, argon2) of the users that may show a password to this proxy"
_UNKNOWN_MEANING = "clients that are no principal: allow, or deny (407, or 403 where no password would help)"
_PROXY_PROTOCOL_MEANING = "balancers (addresses, networks) that say by the PROXY protocol who connects"
_CLIENT_CA_MEANING = "CAs of clients' certificates on REGPROXY_TLS_LISTEN: PEM, maybe with their CRLs"
_CLIENT_CERTS_MEANING = "whether a client there may come without a certificate: optional, or required"
_ACCESS_MEANING = "who may have private content: shared (all), verified (whom the registry lets in), denied"
_TTL_MEANING = "verified: how long a registry's word that it lets someone in is good"
_OUTAGE_MEANING = "verified, registry down: deny, same-repository (who was let in there lately) or serve"
_GRACE_MEANING = "what lately means there"
_FORMAT_MEANING = "regproxy, or rp = docker-registry-proxy's lines, to the letter"
_STYLE_MEANING = "of the log on standard error: text, or json = one JSON object a line"
_AUDIT_MEANING = "a line for each pull and push: path, - (standard output) or off"
_IDLE_MEANING = "a pull has ended when its client has asked for nothing of it for so long"
_REGEX_MEANING = "tags of this tier, matched from their start; empty = no such tier"

SETTINGS: tuple[Setting, ...] = (
    Setting("REGPROXY_LISTEN", "listen", "[::]:3128", "host:port for clients; [::] = every address", _LISTEN),
    Setting("REGPROXY_ADMIN_LISTEN", "admin_listen", "[::]:3129", "host:port of admin pages", _LISTEN),
    Setting("REGPROXY_ADMIN_TOKEN_FILE", "admin_token_file", "", _TOKEN_MEANING, _FILE),
    Setting("REGPROXY_ADMIN_READ_TOKEN_FILE", "admin_read_token_file", "", _READ_TOKEN_MEANING, _FILE),
    Setting("REGPROXY_TRANSPARENT_LISTEN", "transparent_listen", "", _DNS_MEANING, parse_listens, many=True),
    Setting("REGPROXY_TLS_LISTEN", "tls_listen", "", _TLS_MEANING, parse_listens, many=True),
    Setting("REGPROXY_TLS_NAMES", "tls_names", "", _NAMES_MEANING, parse_rules, many=True),
    Setting("REGPROXY_TLS_CERT_FILE", "tls_cert_file", "", _TLS_CERT_MEANING, _FILE),
    Setting("REGPROXY_TLS_KEY_FILE", "tls_key_file", "", "the key of REGPROXY_TLS_CERT_FILE, PEM", _FILE),
    Setting("REGPROXY_CACHE_DIR", "cache_dir", "", _CACHE_MEANING, _DIRECTORY),
    Setting("REGPROXY_CA_DIR", "ca_dir", "", _CA_MEANING, _DIRECTORY),
    Setting("CA_KEY_FILE", "ca_key_file", "", "the CA's key; not set = ca.key in the CA directory", _CA_FILE),
    Setting(
        "CA_CRT_FILE", "ca_crt_file", "", "its certificate; not set = ca.crt in the CA directory", _CA_FILE
    ),
    Setting("REGPROXY_CA_PASSPHRASE_FILE", "ca_passphrase_file", "", _SECRET_MEANING, _FILE),
    Setting("REGPROXY_CA_CONSTRAINTS", "ca_constraints", "true", _CONSTRAINTS_MEANING, _BOOL),
    Setting("REGPROXY_CA_NAMES", "ca_names", "", _CA_NAMES_MEANING, parse_ca_names, many=True),
    Setting("CA_SRL_FILE", "", "", "no effect: serial numbers are random", parse_serial_file),
    Setting("REGPROXY_UPSTREAM_CA_FILE", "upstream_ca_file", "", "PEM of more CAs to trust upstream", _FILE),
    Setting("REGPROXY_RESOLVE", "resolve", "", "host=address, before the resolver", parse_resolve, many=True),
    Setting(
        "REGPROXY_WORKERS", "workers", "auto", "processes; auto or 0 = one per core", _text(parse_workers)
    ),
    Setting("REGPROXY_HANG_TIMEOUT", "hang_timeout", "30s", _HANG_MEANING, _TIMEOUT),
    Setting("REGPROXY_DRAIN_TIMEOUT", "drain_timeout", "7s", _DRAIN_MEANING, _TIME),
    Setting("REGPROXY_ACCESS_LOG", "access_log", "-", "path, - (standard output) or off", _text(parse_log)),
    Setting("REGPROXY_ACCESS_LOG_FORMAT", "access_log_format", "regproxy", _FORMAT_MEANING, _FORMAT),
    Setting("REGPROXY_AUDIT_LOG", "audit_log", "off", _AUDIT_MEANING, _text(parse_log)),
    Setting("REGPROXY_AUDIT_IDLE", "audit_idle", "30s", _IDLE_MEANING, _TIMEOUT),
    Setting("REGPROXY_LOG_LEVEL", "log_level", "info", "debug, info, warning or error", _text(parse_level)),
    Setting("REGPROXY_LOG_FORMAT", "log_format", "text", _STYLE_MEANING, _text(parse_log_style)),
    Setting("REGPROXY_TLS_RECORDS", "tls_records", "auto", _RECORDS_MEANING, _text(parse_records)),
    Setting("REGPROXY_TLS_GROUPS", "tls_groups", "", _GROUPS_MEANING, _text(parse_groups)),
    Setting("REGISTRIES", "registries", _REGISTRIES, _HOSTS_MEANING, _registries, many=True),
    Setting(
        *("REGPROXY_MIRROR_REGISTRIES", "mirror_registries", "", _MIRROR_MEANING),
        *(parse_mirror_registries, True),
    ),
    Setting("REGPROXY_CONNECT_PORTS", "connect_ports", "443", _PORTS_MEANING, parse_ports, many=True),
    Setting("REGPROXY_ALLOW_TARGETS", "allow_targets", "", _TARGETS_MEANING, parse_rules, many=True),
    Setting("REGPROXY_PRIVATE_TARGETS", "private_targets", "registries", _PRIVATE_MEANING, _PRIVATE),
    Setting(
        *("REGPROXY_ALLOW_HTTP_REDIRECTS", "http_redirects", "", _PLAIN_MEANING),
        parse_plain_redirects,
        many=True,
    ),
    Setting("AUTH_REGISTRIES", "", "", "host:user:password entries", _verbatim, many=True, secret=True),
    Setting(
        "AUTH_REGISTRIES_DELIMITER", "", " ", "stands between the entries of AUTH_REGISTRIES", parse_delimiter
    ),
    Setting("AUTH_REGISTRY_DELIMITER", "", ":", "stands between the parts of one entry", parse_delimiter),
    Setting("REGPROXY_HTPASSWD", "htpasswd", "", _HTPASSWD_MEANING, _FILE),
    Setting("REGPROXY_UNKNOWN_CLIENTS", "unknown_clients", "allow", _UNKNOWN_MEANING, _text(parse_unknown)),
    Setting(
        *("REGPROXY_PROXY_PROTOCOL", "proxy_protocol", "", _PROXY_PROTOCOL_MEANING),
        *(parse_networks, True),
    ),
    Setting("REGPROXY_CLIENT_CA_FILE", "client_ca_file", "", _CLIENT_CA_MEANING, _FILE),
    Setting(
        *("REGPROXY_CLIENT_CERTS", "client_certs", "optional", _CLIENT_CERTS_MEANING),
        _text(parse_client_certs),
    ),
    Setting("REGPROXY_ACCESS", "", "shared", _ACCESS_MEANING, _text(parse_access)),
    Setting("REGPROXY_ACCESS_TTL", "access_ttl", "5m", _TTL_MEANING, _TIMEOUT),
    Setting("REGPROXY_ACCESS_OUTAGE", "access_outage", "same-repository", _OUTAGE_MEANING, _OUTAGE),
    Setting("REGPROXY_ACCESS_GRACE", "access_grace", "1d", _GRACE_MEANING, _TIME),
    Setting("REGPROXY_DOCKER_CONFIG", "docker_config", "", "path of a docker config.json with logins", _FILE),
    Setting("REGPROXY_LOGIN_FOR", "login_for", "push", _LOGIN_MEANING, _text(parse_login_for)),
    Setting("HTTPS_PROXY", "parent_proxy", "", _PROXY_MEANING, parse_https_proxy, secret=True),
    Setting(
        "NO_PROXY", "no_proxy", "", "who is reached without it; * = everybody", parse_no_proxy, many=True
    ),
    Setting(
        "ENABLE_MANIFEST_CACHE", "manifest_cache", "false", "serve tags from the cache, by tiers", _SWITCH
    ),
    Setting("REGPROXY_IGNORE_HEADERS", "ignored_headers", "", _IGNORE_MEANING, parse_header_masks, many=True),
    Setting("MANIFEST_CACHE_PRIMARY_REGEX", "", _PRIMARY, _REGEX_MEANING, parse_quoted, blank=True),
    Setting(
        "MANIFEST_CACHE_PRIMARY_TIME", "", "10m", "how long a tag of the first tier is fresh", parse_tier_time
    ),
    Setting("MANIFEST_CACHE_SECONDARY_REGEX", "", _SECONDARY, _REGEX_MEANING, parse_quoted, blank=True),
    Setting(
        "MANIFEST_CACHE_SECONDARY_TIME",
        "",
        "60d",
        "how long a tag of the second tier is fresh",
        parse_tier_time,
    ),
    Setting("MANIFEST_CACHE_DEFAULT_TIME", "", "1h", "how long any other tag is fresh", parse_tier_time),
    Setting("REGPROXY_SWR_PRIMARY", "", "0", _SWR_MEANING, _TIME),
    Setting("REGPROXY_SWR_SECONDARY", "", "0", "the same for the second tier", _TIME),
    Setting("REGPROXY_SWR_DEFAULT", "", "0", "the same for any other tag", _TIME),
    Setting("REGPROXY_MAX_STALE", "max_stale", "365d", _STALE_MEANING, _TIME),
    Setting("REGPROXY_KEEP_ON_404", "keep_on_404", "false", _KEEP_MEANING, _BOOL),
    Setting("REGPROXY_OFFLINE", "offline", "false", _OFFLINE_MEANING, _BOOL),
    Setting("ALLOW_PUSH", "allow_push", "false", "let pushes and deletes through", _SWITCH),
    Setting("REGPROXY_CACHE_PUSHES", "cache_pushes", "false", _PUSHED_MEANING, _BOOL),
    Setting(
        "PROXY_REQUEST_BUFFERING", "request_buffering", "true", "no effect: pushes are streamed", _SWITCH
    ),
    Setting(
        "CACHE_MAX_SIZE",
        "cache_max_size",
        "32g",
        "bytes kept at most; digits and k, m or g",
        parse_cache_size,
    ),
    Setting(
        "CACHE_INACTIVE", "cache_inactive", "60d", "what is unused for so long is removed", parse_inactive
    ),
    Setting("REGPROXY_MIN_FREE", "min_free", "auto", _FREE_MEANING, _text(parse_min_free)),
    Setting("REGPROXY_QUOTA_RESERVE", "quota_reserve", "10%", _RESERVE_MEANING, _text(parse_reserve)),
    Setting("REGPROXY_FILL_STREAMS", "fill_streams", "4", _STREAMS_MEANING, _text(parse_streams)),
    Setting("REGPROXY_RESUME_TIME", "resume_time", "60s", _RESUME_MEANING, _TIME),
    Setting("REGPROXY_MIN_RATE", "min_rate", "1k", _RATE_MEANING, _SIZE),
    Setting("REGPROXY_MIN_RATE_TIME", "min_rate_time", "30s", "how long a body may be that slow", _TIMEOUT),
    Setting("VERIFY_SSL", "verify_ssl", "true", "verify upstream certificates", parse_verify),
    Setting("DISABLE_IPV6", "disable_ipv6", "false", "use IPv4 alone upstream", _SWITCH),
    Setting("SEND_TIMEOUT", "send_timeout", "60s", "longest wait for a client to take data", _WAIT),
    Setting("CLIENT_BODY_TIMEOUT", "client_body_timeout", "60s", "longest wait for data of a body", _WAIT),
    Setting("CLIENT_HEADER_TIMEOUT", "client_header_timeout", "60s", "longest wait for a head", _WAIT),
    Setting("KEEPALIVE_TIMEOUT", "keepalive_timeout", "300s", "longest wait for a request; 0 = close", _KEEP),
    Setting("REGPROXY_REPEAT_ANSWERS", "repeat_answers", "true", _REPEAT_MEANING, _BOOL),
    Setting("PROXY_READ_TIMEOUT", "proxy_read_timeout", "60s", "longest wait for upstream's data", _WAIT),
    Setting("PROXY_CONNECT_TIMEOUT", "proxy_connect_timeout", "60s", "longest wait to connect", _WAIT),
    Setting("PROXY_SEND_TIMEOUT", "proxy_send_timeout", "60s", "longest wait to send upstream", _WAIT),
    Setting("REGPROXY_FIRST_BYTE_TIMEOUT", "first_byte_timeout", "900s", _FIRST_BYTE_MEANING, _TIME),
    Setting("REGPROXY_STALE_AFTER", "stale_after", "5s", _STALE_AFTER_MEANING, _TIME),
    Setting("PROXY_CONNECT_READ_TIMEOUT", "tunnel_read_timeout", "60s", "tunnels: to receive", _WAIT),
    Setting("PROXY_CONNECT_CONNECT_TIMEOUT", "tunnel_connect_timeout", "60s", "tunnels: to open", _WAIT),
    Setting("PROXY_CONNECT_SEND_TIMEOUT", "tunnel_send_timeout", "60s", "tunnels: to send", _WAIT),
    Setting("DEBUG", "debug", "false", "a mitmweb, with a page, between clients and the cache", _SWITCH),
    Setting("DEBUG_HUB", "debug_hub", "false", "another between the cache and Docker Hub", _SWITCH),
    Setting("REGPROXY_DEBUG_LISTEN", "debug_listen", "127.0.0.1:8081", "host:port of DEBUG's page", _LISTEN),
    Setting(
        *("REGPROXY_DEBUG_HUB_LISTEN", "debug_hub_listen", "127.0.0.1:8082"),
        *("host:port of DEBUG_HUB's page", _LISTEN),
    ),
    Setting("REGPROXY_DEBUG_PASSWORD_FILE", "debug_password_file", "", _DEBUG_PASSWORD_MEANING, _FILE),
    Setting("REGPROXY_DEBUG_CREDENTIALS", "debug_credentials", "false", _DEBUG_SHOWS_MEANING, _BOOL),
    Setting("DEBUG_NGINX", "debug_nginx", "false", "log level debug, unless a log level is set", _SWITCH),
)

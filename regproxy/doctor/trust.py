"""Who on the host trusts the proxy's CA: the system's store, dockerd's certs.d, containerd's certs.d."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from msgspec import Struct

from regproxy.doctor.findings import Finding, error, ok, warning
from regproxy.doctor.host_files import HostFiles, Unreadable, strings, table

SUBJECT: Final = "CA"
# Bundles that Go and OpenSSL read: Debian and Alpine, RHEL (two names), SUSE (two names).
BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
)
# Where the CA is put for those bundles, by regproxy's set-ups and by docker-registry-proxy's.
_ANCHORS: Final = tuple(
    f"{folder}/{name}.crt"
    for folder in (
        "/usr/local/share/ca-certificates",
        "/etc/pki/ca-trust/source/anchors",
        "/etc/pki/trust/anchors",
    )
    for name in ("regproxy", "docker_registry_proxy")
)
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_INSTALL: Final = "run one of the proxy's /setup scripts, or add /ca.crt to the system's store"


def certificates(pem: str) -> Iterator[bytes]:
    """Return the certificates in a PEM file, DER; what is no certificate is left out."""
    for block in pem.split(_BEGIN)[1:]:
        try:
            yield ssl.PEM_cert_to_DER_cert(_BEGIN + block.partition(_END)[0] + _END)
        except ValueError:
            continue


def examine(
    host: HostFiles, ca_pem: str, *, needed: bool, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return what is to be said. `needed`: a daemon of the host reaches the proxy by HTTPS_PROXY; `environ`:
    the variables of an environment whose programs do, None where it is none.
    """
    ca, *former = list(certificates(ca_pem)) or [b""]
    found: list[Finding] = []
    named = _by_variable(host, ca, environ or {})
    if named:
        found.append(ok(SUBJECT, f"programs of this environment trust it ({named})"))
    found += _system(host, ca, former, _Need(needed, environ is not None and not named, bool(named)))
    return [*found, *_docker(host, ca), *_containerd(host, ca)]


class _Need(Struct, frozen=True):
    """Who reaches the proxy by HTTPS_PROXY, and has the system's store alone to trust the CA by."""

    daemons: bool
    environment: bool
    spared: bool
    """Whether the environment does without that store."""


def _by_variable(host: HostFiles, ca: bytes, environ: Mapping[str, str]) -> str:
    """Return the variable by which Go and OpenSSL find the CA, "" where they don't."""
    file, folders = environ.get("SSL_CERT_FILE", ""), environ.get("SSL_CERT_DIR", "")
    if file and _holds(host, file, ca):
        return f"SSL_CERT_FILE={file}"
    for folder in filter(None, folders.split(":")):
        if any(_holds(host, path, ca) for path in host.paths(folder, "*")):
            return f"SSL_CERT_DIR={folders}"
    return ""


def _holds(host: HostFiles, path: str, ca: bytes) -> bool | None:
    """Tell whether a PEM file has the CA; None: there is no such file, or it can't be read."""
    try:
        text = host.text(path)
    except Unreadable:
        return None
    return None if text is None else ca in certificates(text)


def _system(host: HostFiles, ca: bytes, former: list[bytes], need: _Need) -> Iterator[Finding]:
    """Look at the system's store. `former`: CAs that the proxy still signs with, until `ca` replaces them."""
    bundles = {path: has for path in BUNDLES if (has := _holds(host, path, ca)) is not None}
    anchors = {path: has for path in _ANCHORS if (has := _holds(host, path, ca)) is not None}
    if any(bundles.values()):
        yield ok(SUBJECT, f"the system trusts it ({next(path for path, has in bundles.items() if has)})")
    elif any(anchors.values()):
        path = next(path for path, has in anchors.items() if has)
        fix = "run update-ca-certificates (RHEL: update-ca-trust), then restart what pulls"
        yield error(SUBJECT, f"{path} is there, but the system's bundle was not made anew", fix)
    elif any(_holds(host, path, other) for path in bundles for other in former):
        what = "the system trusts the CA that the proxy is about to replace, and not the new one"
        yield warning(SUBJECT, what, _INSTALL)
    elif anchors:
        yield error(SUBJECT, f"{next(iter(anchors))} is the CA of another or an earlier proxy", _INSTALL)
    elif need.daemons:
        yield error(SUBJECT, "the system does not trust it", _INSTALL)
    elif need.environment:
        what = "the system does not trust it, and programs of this environment have the proxy as HTTPS_PROXY"
        yield error(SUBJECT, what, f"{_INSTALL}; or set SSL_CERT_FILE to a file that has it")
    elif need.spared:
        yield ok(SUBJECT, "the system does not trust it, and no daemon here reaches the proxy by HTTPS_PROXY")
    else:
        yield ok(SUBJECT, "the system does not trust it, and nothing here reaches the proxy by HTTPS_PROXY")


def _docker(host: HostFiles, ca: bytes) -> Iterator[Finding]:
    """Look at /etc/docker/certs.d/REGISTRY/*.crt: dockerd trusts it for that registry."""
    files = host.paths("/etc/docker/certs.d", "*/*.crt")
    trusted = [PurePosixPath(path).parent.name for path in files if _holds(host, path, ca)]
    if trusted:
        yield ok(SUBJECT, f"dockerd trusts it for {', '.join(trusted)} (/etc/docker/certs.d)")
    for path in files:
        if PurePosixPath(path).name == "regproxy.crt" and not _holds(host, path, ca):
            yield warning(
                SUBJECT,
                f"{path} is the CA of another or an earlier proxy",
                "remove it, or fetch /ca.crt anew",
            )


def _containerd(host: HostFiles, ca: bytes) -> Iterator[Finding]:
    """Look at the `ca` of hosts.toml files: those that name a file that is not there break the pull."""
    for path in host.paths("/etc/containerd/certs.d", "*/hosts.toml"):
        try:
            hosts = host.toml(path)
        except Unreadable:
            continue  # said by `mirrors`
        for entry in (hosts, *table(hosts, "host").values()):
            for named in strings(table(entry).get("ca")):
                place = str(PurePosixPath(path).parent / named)
                has = _holds(host, place, ca)
                if has is None:
                    yield error(SUBJECT, f"{path} names {place}, which can't be read", "put the CA there")
                elif has:
                    yield ok(SUBJECT, f"containerd trusts it by {path}")

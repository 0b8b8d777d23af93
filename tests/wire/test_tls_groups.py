"""Which group agrees on the key with a client: the one that it sends a share for, if the setting has that."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from regproxy.dataplane import tls_contexts
from tests.support.origin import Origin
from tests.support.proxy import Proxy

HYBRID = tls_contexts.GROUPS == tls_contexts.HYBRID_GROUPS

# (setting, the client's in its order, the key that is agreed on)
GROUPS = [
    ("", "X25519:P-256", "X25519"),
    ("", "P-256:X25519", "ECDH, prime256v1"),
    ("", "P-384", "ECDH, secp384r1"),
    ("P-384:X25519", "X25519:P-384", "X25519"),
    ("P-384", "X25519:P-384", "ECDH, secp384r1"),
    ("P-256", "X25519:P-256", "ECDH, prime256v1"),
]


def agree(proxy: Proxy, origin: Origin, groups: str) -> str:
    """Return what openssl says of the handshake."""
    command = [
        *("openssl", "s_client", "-connect", origin.authority, "-servername", "reg.test", "-groups", groups),
        *(
            "-proxy",
            f"{proxy.address[0]}:{proxy.port}",
            "-CAfile",
            str(proxy.ca_path),
            "-verify_return_error",
        ),
    ]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60)
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


@pytest.mark.parametrize("setting", sorted({row[0] for row in GROUPS}))
def test_what_both_have(
    setting: str, start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]
) -> None:
    origin = start_origin("reg.test")
    proxy = start_proxy(origin, REGPROXY_TLS_GROUPS=setting)
    for _, groups, key in (row for row in GROUPS if row[0] == setting):
        said = re.search(r"(?:Server|Peer) Temp Key: (.*), [0-9]+ bits", agree(proxy, origin, groups))
        assert said is not None
        assert said[1] == key


@pytest.mark.skipif(not HYBRID, reason="this OpenSSL has no X25519MLKEM768 (3.5)")
def test_the_hybrid_group(start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]) -> None:
    origin = start_origin("reg.test")
    assert "X25519MLKEM768" in agree(start_proxy(origin), origin, "X25519MLKEM768:X25519")


@pytest.mark.parametrize("groups", ["X25519:P-9000", "X25519MLKEM9"])
def test_what_openssl_has_not(
    groups: str, start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]
) -> None:
    with pytest.raises(RuntimeError, match=f"REGPROXY_TLS_GROUPS='{groups}': OpenSSL has not all"):
        start_proxy(start_origin("reg.test"), REGPROXY_TLS_GROUPS=groups)


def test_no_group_in_common(start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]) -> None:
    origin = start_origin("reg.test")
    proxy = start_proxy(origin, REGPROXY_TLS_GROUPS="P-256")
    assert "handshake failure" in agree(proxy, origin, "P-384").lower()

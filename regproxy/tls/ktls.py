"""Find out whether the kernel supports TLS (Linux, Documentation/networking/tls.rst)."""

from __future__ import annotations

import socket
import struct
from typing import Final

# <linux/tcp.h>, <linux/tls.h>; Python has no names for them
_TCP_ULP: Final = 31
_SOL_TLS: Final = 282
_TLS_TX: Final = 1
_AES_128_GCM: Final = struct.pack("=HH36x", 0x0304, 51)  # TLS 1.3, with a key of zeros


def kernel_tls() -> str | None:
    """Return None if the kernel supports TLS on sockets (kTLS), else the reason why not."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        try:
            client.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
            # The module `tls` may be loaded without the cipher's own, `gcm`.
            client.setsockopt(_SOL_TLS, _TLS_TX, _AES_128_GCM)
        except FileNotFoundError:
            return "the kernel module tls is not loaded"
        except OSError as error:
            return error.strerror or str(error)
    return None

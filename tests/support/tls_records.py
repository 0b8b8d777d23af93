"""TLS records by hand, on a connection whose handshake Python's ssl has done: what no TLS library sends.

AES-GCM alone: TLS 1.3 (RFC 8446 section 5.2), and TLS 1.2 as RFC 5288 has it, with AES-128.
"""

from __future__ import annotations

import hmac
import ssl
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ALERT, HANDSHAKE, DATA = 21, 22, 23
HEADER = 5
TAG = 16
HELLO_REQUEST = bytes(4)
CLIENT_HELLO = b"\x01\0\0\0"  # its first four bytes: enough to ask for a renegotiation
KEY_UPDATE = {False: b"\x18\0\0\x01\0", True: b"\x18\0\0\x01\x01"}  # True: it wants one in return
TICKET = b"\x04\0\0\x0f" + struct.pack(">II", 0, 0) + b"\x01n" + b"\0\x01t" + b"\0\0"


class Keys:
    """One direction of a TLS 1.3 connection, from a traffic secret on."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret, self.sequence = secret, 0
        key = 16 if len(secret) == 32 else 32
        self._aead, self._iv = AESGCM(expand(secret, b"key", key)), expand(secret, b"iv", 12)

    def update(self) -> None:
        """Go on to the next keys, as a KeyUpdate says."""
        self._use(expand(self._secret, b"traffic upd", len(self._secret)))

    def _nonce(self) -> bytes:
        number = bytes(4) + struct.pack(">Q", self.sequence)
        self.sequence += 1
        return bytes(a ^ b for a, b in zip(self._iv, number, strict=True))

    def seal(self, kind: int, data: bytes) -> bytes:
        header = b"\x17\x03\x03" + struct.pack(">H", len(data) + 1 + TAG)
        return header + self._aead.encrypt(self._nonce(), data + bytes([kind]), header)

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Inner type and data; InvalidTag where key or number are not what this side should be at."""
        plain = self._aead.decrypt(self._nonce(), record[HEADER:], record[:HEADER])
        return plain[-1], plain[:-1]


class OldKeys:
    """One direction of a TLS 1.2 connection behind its Finished."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._aead, self._salt, self.sequence = AESGCM(key), salt, 1

    def seal(self, kind: int, data: bytes) -> bytes:
        number = struct.pack(">Q", self.sequence)
        self.sequence += 1
        extra = number + struct.pack(">BHH", kind, 0x303, len(data))
        sealed = number + self._aead.encrypt(self._salt + number, data, extra)
        return struct.pack(">BHH", kind, 0x303, len(sealed)) + sealed


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label, one block; the secret is as long as its hash."""
    info = struct.pack(">HB", size, 6 + len(label)) + b"tls13 " + label + b"\0\x01"
    return hmac.digest(secret, info, "sha256" if len(secret) == 32 else "sha384")[:size]


def prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """RFC 5246 section 5."""
    out, a = b"", seed
    while len(out) < size:
        a = hmac.digest(secret, a, "sha256")
        out += hmac.digest(secret, a + seed, "sha256")
    return out[:size]


def split(wire: bytes) -> tuple[list[bytes], bytes]:
    """Whole records, and what is left."""
    records = []
    while len(wire) >= HEADER and len(wire) >= (end := HEADER + int.from_bytes(wire[3:5])):
        records.append(wire[:end])
        wire = wire[end:]
    return records, wire


class Shaker:
    """One side of a handshake, in memory. `keys` are for what this side sends, `peer` for what it gets."""

    def __init__(self, context: ssl.SSLContext, log: Path, *, name: str | None, old: bool = False) -> None:
        context.keylog_filename = str(log)
        version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        if name is None:
            context.num_tickets = 0  # records that would count
        self._old, self._log, self._serves = old, log, name is None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=self._serves, server_hostname=name
        )
        self._hello = b""  # the server's

    def step(self, wire: bytes) -> tuple[bytes, bool]:
        """Take what came; what is to be sent, and whether the handshake is over."""
        self._incoming.write(wire)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        else:
            done = True
        out = self._outgoing.read()
        self._hello = self._hello or (out if self._serves else wire)
        return out, done

    def keys(self) -> tuple[Keys | OldKeys, Keys | OldKeys]:
        """Those of what this side sends, and of what it gets."""
        said = dict[str, tuple[bytes, bytes]]()
        for line in self._log.read_text().splitlines():
            if not line.startswith("#"):
                label, *values = line.split()
                random, secret = map(bytes.fromhex, values)
                said[label] = random, secret
        if self._old:
            random, master = said["CLIENT_RANDOM"]
            # Behind the headers of record and message, and the version
            block = prf(master, b"key expansion" + self._hello[11:43] + random, 40)
            both: list[Keys | OldKeys] = [
                OldKeys(block[:16], block[32:36]),
                OldKeys(block[16:32], block[36:40]),
            ]
        else:
            both = [Keys(said[f"{side}_TRAFFIC_SECRET_0"][1]) for side in ("CLIENT", "SERVER")]
        return (both[1], both[0]) if self._serves else (both[0], both[1])

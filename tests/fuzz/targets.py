"""The targets by name, and how each is started."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fuzz.build import BUILD, DRIVER
from tests.support import ROOT

# Module and function of the harnesses for the data plane.
IN_C: Final = {
    "heads": ("fuzz_heads", "cut"),
    "connect": ("fuzz_heads", "connect"),
    "chunks": ("fuzz_chunks", "decode"),
    "records": ("fuzz_records", "seal"),
    "peer_records": ("fuzz_peer_records", "read"),
    "block_map": ("fuzz_block_map", "marks"),
}
IN_PYTHON: Final = (
    *("manifests", "tokens", "challenges", "configuration", "messages", "ranges", "rate_limits"),
    "index_file",
)
NAMES: Final = (*IN_C, *IN_PYTHON)
HANDLERS: Final = "handlers"
_PEM: Final = BUILD / "pem"


def command(name: str) -> list[str]:
    """Return the command of a target, for libFuzzer's arguments to follow."""
    if name in IN_C:
        return [str(DRIVER)]
    return [sys.executable, "-m", "tests.fuzz.atheris_main", name]


def environment(name: str) -> dict[str, str]:
    """Return the environment of a target."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "REGPROXY_"))}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if name not in IN_C:
        return env
    module, function = IN_C[name]
    return env | {
        "FUZZ_MODULE": module,
        "FUZZ_FUNCTION": function,
        "FUZZ_PYTHON": sys.executable,
        "FUZZ_PATH": f"{BUILD}:{ROOT}",
        "FUZZ_PEM": str(_pem()),
        # Python itself keeps memory to its end; freed memory has to be the allocator's to be seen as such.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=2:quarantine_size_mb=16",
    }


def _pem() -> Path:
    """Return a file with some certificate and its key, which nobody checks."""
    if not _PEM.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzz.test")])
        start = datetime(2026, 1, 1)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start)
        certificate = builder.not_valid_after(start.replace(year=2046)).sign(key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made = _PEM.with_suffix(f".{os.getpid()}")
        made.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
        made.replace(_PEM)
    return _PEM

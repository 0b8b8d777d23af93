"""CAs that others have made: docker-registry-proxy's, and an intermediate below a company's root."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Extensions as docker-registry-proxy's create_ca_cert.sh asks for them: no pathlen, no AKI.
_EXTENSIONS = (
    "basicConstraints = critical,CA:TRUE",
    "keyUsage = critical, digitalSignature, cRLSign, keyCertSign",
    "subjectKeyIdentifier = hash",
)


def openssl(*args: str | Path) -> str:
    """Run the openssl command, and return what it says."""
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def drp_ca(crt: Path, key: Path) -> None:
    """Make a CA as docker-registry-proxy leaves it: RSA-4096, its key in DES3 with a passphrase."""
    crt.parent.mkdir(parents=True, exist_ok=True)
    config = crt.with_suffix(".cnf")
    config.write_text("\n".join(["[req]", "distinguished_name = dn", "[dn]", "[IA]", *_EXTENSIONS, ""]))
    openssl("genrsa", "-des3", "-passout", "pass:foobar", "-out", key, "4096")
    openssl(
        *("req", "-new", "-x509", "-days", "1300", "-sha256", "-key", key, "-out", crt, "-passin"),
        *("pass:foobar", "-subj", "/C=NL/O=ME/OU=IT/CN=DockerMirrorBox CA Root 0123456789ab"),
        *("-extensions", "IA", "-config", config),
    )
    config.unlink()


def subordinate_ca(
    directory: Path, crt: Path, key: Path, *, permitted: str = "", days: int = 700, chain: bool = True
) -> Path:
    """Write an intermediate CA and its key, P-256, as cert-manager and Vault do, and return its root.

    The root and its key stay below `directory`, and sign again the next time. `permitted`: a domain that the
    intermediate is limited to. `chain`: the root is behind the intermediate in its file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root, root_key = directory / "root.crt", directory / "root.key"
    extensions = directory / "extensions"
    curve = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out")
    if not root.exists():
        openssl(*curve, root_key)
        openssl(
            *("req", "-new", "-x509", "-days", "900", "-key", root_key, "-out", root),
            *("-subj", "/CN=Example Corp Root"),
            *(word for line in _EXTENSIONS[1:] for word in ("-addext", line.replace(" = ", "="))),
        )
    lines = [*_EXTENSIONS, "authorityKeyIdentifier = keyid"]
    lines += [f"nameConstraints = critical,permitted;DNS:{permitted}"] if permitted else []
    extensions.write_text("\n".join(lines) + "\n")
    new_key, request, made = directory / "sub.key", directory / "sub.csr", directory / "sub.crt"
    openssl(*curve, new_key)
    openssl("req", "-new", "-key", new_key, "-out", request, "-subj", "/CN=regproxy intermediate of Corp")
    openssl(
        *("x509", "-req", "-days", str(days), "-in", request, "-CA", root, "-CAkey", root_key),
        *("-CAcreateserial", "-out", made, "-extfile", extensions),
    )
    crt.write_bytes(made.read_bytes() + (root.read_bytes() if chain else b""))
    key.write_bytes(new_key.read_bytes())
    return root

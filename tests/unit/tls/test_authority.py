"""The CA's files and the leaves, judged by the openssl command and by Python's ssl."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from regproxy.core.errors import CertificateError
from regproxy.tls.authority import Authority, Leaf

DAY = 86400.0
HOST = "registry-1.docker.io"
# Extensions as docker-registry-proxy's create_ca_cert.sh asks for them: no pathlen, no AKI.
DRP_EXTENSIONS = (
    "basicConstraints = critical,CA:TRUE",
    "keyUsage = critical, digitalSignature, cRLSign, keyCertSign",
    "subjectKeyIdentifier = hash",
)
DRP_SUBJECT = "/C=NL/ST=Noord Holland/L=Amsterdam/O=ME/OU=IT/CN=DockerMirrorBox CA Root 0123456789ab"


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Files:
    crt: Path
    key: Path

    def open(self, clock: Callable[[], float] = time.time) -> Authority:
        return Authority.open(self.crt, self.key, clock=clock)

    def copy(self, directory: Path) -> Files:
        other = files_in(directory)
        other.crt.write_bytes(self.crt.read_bytes())
        other.key.write_bytes(self.key.read_bytes())
        return other


def files_in(directory: Path) -> Files:
    return Files(directory / "ca.crt", directory / "ca.key")


def openssl(*args: str | Path) -> str:
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sign_ca(
    files: Files, extensions: tuple[str, ...], *, days: int = 1300, subject: str = DRP_SUBJECT
) -> None:
    """Self-sign `files.key` as docker-registry-proxy does."""
    config = files.crt.with_suffix(".cnf")
    config.write_text("\n".join(["[req]", "distinguished_name = dn", "[dn]", "[IA]", *extensions, ""]))
    openssl(
        *("req", "-new", "-x509", "-days", str(days), "-sha256", "-key", files.key, "-out", files.crt),
        *("-passin", "pass:foobar", "-subj", subject, "-extensions", "IA", "-config", config),
    )


@pytest.fixture(scope="module")
def drp(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A CA directory as docker-registry-proxy leaves it."""
    files = files_in(tmp_path_factory.mktemp("drp"))
    openssl("genrsa", "-des3", "-passout", "pass:foobar", "-out", files.key, "4096")
    sign_ca(files, DRP_EXTENSIONS)
    return files


@pytest.fixture(params=["ours", "drp", "drp-old-pem", "drp-pathlen-0", "p384"])
def authority(request: pytest.FixtureRequest, drp: Files, tmp_path: Path) -> Authority:
    files = files_in(tmp_path)
    if request.param.startswith("drp"):
        files = drp.copy(tmp_path)
    if request.param == "drp-old-pem":  # what OpenSSL 1.1's genrsa wrote
        plain = tmp_path / "plain"
        openssl("rsa", "-in", drp.key, "-passin", "pass:foobar", "-out", plain)
        openssl("rsa", "-in", plain, "-traditional", "-des3", "-passout", "pass:foobar", "-out", files.key)
        assert b"DEK-Info: DES-EDE3-CBC" in files.key.read_bytes()
    if request.param == "drp-pathlen-0":
        sign_ca(files, ("basicConstraints = critical,CA:TRUE,pathlen:0", *DRP_EXTENSIONS[1:]))
    if request.param == "p384":
        openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", files.key)
        sign_ca(files, DRP_EXTENSIONS)
    return files.open()


def certificates(leaf: Leaf) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(leaf.chain_pem)


def key_size(certificate: x509.Certificate) -> int:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return key.key_size


# --- what clients make of a leaf -------------------------------------------------------------------------


@pytest.mark.parametrize("host", [HOST, "127.0.0.5", "2001:db8::5", "a" * 60 + ".example"])
def test_openssl_verifies_the_chain(authority: Authority, tmp_path: Path, host: str) -> None:
    leaf = authority.leaf(host)
    root, chain, end = tmp_path / "root.pem", tmp_path / "chain.pem", tmp_path / "leaf.pem"
    root.write_bytes(authority.certificate_pem)
    chain.write_bytes(leaf.chain_pem)
    end.write_bytes(leaf.chain_pem)  # `verify` takes a file's first certificate
    named = "-verify_hostname" if host[0].isalpha() else "-verify_ip"
    said = openssl(
        *("verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore"),
        *("-CAfile", root, "-untrusted", chain, named, host, end),
    )
    assert said.endswith(": OK\n")


def handshake(
    authority: Authority, leaf: Leaf, asked: str, tmp_path: Path, *, strict: bool = True
) -> str | None:
    """Return the TLS version of a handshake between two memory BIOs that trusts nothing but the CA."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(leaf.chain_pem + leaf.key_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(pem)
    client_context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    if strict:
        client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        client_context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(downward, upward, server_hostname=asked)
    sides = [client, server_context.wrap_bio(upward, downward, server_side=True)]
    for _ in range(8):
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
        if not sides:
            return client.version()
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize(
    "host", [HOST, "127.0.0.5", "::1", "under_score.example", "b" * 63 + ".long.example"]
)
def test_a_real_handshake(authority: Authority, tmp_path: Path, host: str) -> None:
    assert handshake(authority, authority.leaf(host), host, tmp_path) == "TLSv1.3"


@pytest.mark.parametrize(
    "host, asked",
    [(HOST, "docker.io"), (HOST, "a." + HOST), ("127.0.0.5", "127.0.0.6"), ("gcr.io", "eu.gcr.io")],
)
def test_a_leaf_is_for_one_host(authority: Authority, tmp_path: Path, host: str, asked: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(authority, authority.leaf(host), asked, tmp_path)


def test_another_ca_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    other = files_in(tmp_path / "other").open()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, authority.leaf(HOST), HOST, tmp_path)


# --- what is in a leaf -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, names, common_name",
    [
        ("quay.io", ["quay.io"], "quay.io"),
        ("xn--bcher-kva.example", ["xn--bcher-kva.example"], "xn--bcher-kva.example"),
        ("localhost", ["localhost"], "localhost"),
        ("c" * 60 + ".org", ["c" * 60 + ".org"], "c" * 60 + ".org"),
        ("d" * 61 + ".org", ["d" * 61 + ".org"], None),
        ("10.0.0.1", [ipaddress.ip_address("10.0.0.1")], "10.0.0.1"),
        ("2001:db8::1", [ipaddress.ip_address("2001:db8::1")], "2001:db8::1"),
    ],
    ids=str,
)
def test_names(authority: Authority, host: str, names: list[object], common_name: str | None) -> None:
    certificate = certificates(authority.leaf(host))[0]
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [name.value for name in san.value] == names
    assert [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == (
        [common_name] if common_name else []
    )
    assert san.critical is (common_name is None)


@pytest.mark.parametrize(
    "host",
    [
        "*.example.com",
        "",
        "a b",
        "bücher.example",
        "a..b",
        ".example.com",
        "a.example.",
        "-a.example",
        "[::1]",
        "a/b",
        "a\x00.example",
        "a\n",
        "A.example",
        "e" * 254,
        "user@host",
    ],
)
def test_what_is_no_host_gets_no_leaf(ours: Authority, host: str) -> None:
    with pytest.raises(CertificateError, match="not a host name"):
        ours.leaf(host)
    assert ours.leaf_not_after_min() is None


def test_profile(authority: Authority) -> None:
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    chain = certificates(authority.leaf(HOST))
    for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
        certificate.verify_directly_issued_by(issuer)
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert aki.key_identifier == key_id
    assert root not in chain
    constraints = chain[0].extensions.get_extension_for_class(x509.BasicConstraints)
    usage = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_slow_key_signs_one_intermediate_and_no_leaf(drp: Files, tmp_path: Path) -> None:
    chains = [certificates(drp.open().leaf("a.example")) for _ in range(2)]
    for leaf, intermediate in chains:
        constraints = intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (constraints.ca, constraints.path_length) == (True, 0)
        assert (key_size(intermediate), key_size(leaf)) == (256, 256)
    # Two processes: two keys, so two names, or a client that remembers one would take it for the other.
    assert chains[0][1].subject != chains[1][1].subject


def test_pathlen_0_is_obeyed(drp: Files, tmp_path: Path) -> None:
    files = drp.copy(tmp_path)
    sign_ca(files, ("basicConstraints = critical,CA:TRUE,pathlen:0", *DRP_EXTENSIONS[1:]))
    (leaf,) = certificates(files.open().leaf(HOST))
    assert leaf.issuer == x509.load_pem_x509_certificate(files.crt.read_bytes()).subject


@pytest.mark.parametrize("key_id", [("subjectKeyIdentifier = 0102030405060708",), ()], ids=["own", "none"])
def test_a_cas_own_key_id_is_taken(drp: Files, tmp_path: Path, key_id: tuple[str, ...]) -> None:
    files = drp.copy(tmp_path)
    sign_ca(files, (*DRP_EXTENSIONS[:2], *(key_id or ("subjectKeyIdentifier = none",))))
    authority = files.open()
    leaf = authority.leaf(HOST)
    aki = certificates(leaf)[1].extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    if key_id:
        assert aki.key_identifier == bytes(range(1, 9))
        assert handshake(authority, leaf, HOST, tmp_path) == "TLSv1.3"
    else:
        root = x509.load_pem_x509_certificate(authority.certificate_pem)
        assert x509.SubjectKeyIdentifier.oid not in {extension.oid for extension in root.extensions}
        # Strict clients want the identifier in a CA; the others take the chain.
        assert handshake(authority, leaf, HOST, tmp_path, strict=False) == "TLSv1.3"


@pytest.mark.parametrize("root_pathlen, chain_length", [("", 3), (",pathlen:2", 3), (",pathlen:1", 2)])
def test_a_subordinate_ca_is_sent(drp: Files, tmp_path: Path, root_pathlen: str, chain_length: int) -> None:
    """A company's own CA signs ours: clients trust the company's root, and get the way to it."""
    root = drp.copy(tmp_path)
    sign_ca(root, (f"basicConstraints = critical,CA:TRUE{root_pathlen}", *DRP_EXTENSIONS[1:]))
    files = files_in(tmp_path / "sub")
    files.crt.parent.mkdir()
    request, extensions = tmp_path / "sub.csr", tmp_path / "sub.ext"
    extensions.write_text("\n".join(DRP_EXTENSIONS))
    openssl("genrsa", "-out", files.key, "2048")
    openssl("req", "-new", "-key", files.key, "-out", request, "-subj", "/CN=sub")
    openssl(
        *("x509", "-req", "-days", "700", "-in", request, "-CA", root.crt, "-CAkey", root.key),
        *("-passin", "pass:foobar", "-CAcreateserial", "-out", files.crt, "-extfile", extensions),
    )
    files.crt.write_bytes(files.crt.read_bytes() + root.crt.read_bytes())
    leaf = files.open().leaf(HOST)
    assert len(certificates(leaf)) == chain_length
    assert handshake(root.open(), leaf, HOST, tmp_path) == "TLSv1.3"


# --- time ------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return files_in(tmp_path).open()


def test_a_new_ca(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    authority = files_in(tmp_path).open(clock)
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, True)
    assert root.subject == root.issuer
    assert (key_size(root), authority.not_after) == (256, clock.now + 3650 * DAY)
    assert root.not_valid_before_utc.timestamp() == clock.now - 2 * DAY


def test_leaf_dates_and_renewal(drp: Files) -> None:
    clock = Clock(time.time())
    authority = drp.open(clock)
    first = authority.leaf(HOST)
    assert first.not_after == int(clock.now) + 90 * DAY
    assert certificates(first)[0].not_valid_before_utc.timestamp() == int(clock.now) - 2 * DAY
    clock.now += 59 * DAY
    assert authority.leaf(HOST) is first
    clock.now += 1 * DAY + 1
    second = authority.leaf(HOST)
    assert second.not_after == int(clock.now) + 90 * DAY
    assert authority.leaf(HOST) is second


def test_a_leaf_never_outlives_who_signed_it(drp: Files) -> None:
    """Over the three and a half years of the CA: whoever asks gets a chain that is valid today."""
    clock = Clock(time.time())
    authority = drp.open(clock)
    intermediates, leaves = set(), set()
    while clock.now < authority.not_after:
        leaf = authority.leaf(HOST)
        end, intermediate = certificates(leaf)
        for certificate in (end, intermediate):
            assert certificate.not_valid_before_utc.timestamp() <= clock.now
            assert clock.now < certificate.not_valid_after_utc.timestamp() <= authority.not_after
        assert end.not_valid_after_utc <= intermediate.not_valid_after_utc
        intermediates.add(intermediate.serial_number)
        leaves.add(end.serial_number)
        clock.now += DAY
    # 1,300 days: a leaf every 61, an intermediate with every fourth, and no minting spree in the last weeks.
    assert len(intermediates) == 5
    assert 20 <= len(leaves) <= 28


def test_a_ca_that_expires_while_running_says_so(drp: Files) -> None:
    clock = Clock(time.time())
    authority = drp.open(clock)
    authority.leaf(HOST)
    clock.now = authority.not_after
    with pytest.raises(CertificateError, match="the CA expired on "):
        authority.leaf(HOST)


def test_a_clock_that_was_ahead(drp: Files) -> None:
    clock = Clock(time.time() + 200 * DAY)
    authority = drp.open(clock)
    authority.leaf(HOST)
    clock.now -= 200 * DAY
    for certificate in certificates(authority.leaf(HOST)):
        assert certificate.not_valid_before_utc.timestamp() <= clock.now


def test_leaves_are_bounded_and_the_oldest_goes(ours: Authority) -> None:
    kept, lost = ours.leaf("kept.example"), ours.leaf("lost.example")
    for number in range(1023):
        ours.leaf(f"n{number}.example")
        ours.leaf("kept.example")
    assert ours.leaf("kept.example") is kept
    assert ours.leaf("lost.example") is not lost


def test_leaf_not_after_min(tmp_path: Path) -> None:
    clock = Clock(time.time())
    authority = files_in(tmp_path).open(clock)
    assert authority.leaf_not_after_min() is None
    first = authority.leaf("a.example")
    clock.now += 10 * DAY
    authority.leaf("b.example")
    assert authority.leaf_not_after_min() == first.not_after
    clock.now += 55 * DAY
    authority.leaf("a.example")
    assert authority.leaf_not_after_min() == first.not_after + 10 * DAY


def test_keys_are_not_shown(ours: Authority) -> None:
    leaf = ours.leaf(HOST)
    assert leaf.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert "PRIVATE" not in repr(leaf)
    assert leaf.key_pem == ours.leaf("other.example").key_pem


# --- files: made, kept, refused --------------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_files_that_are_made(tmp_path: Path) -> None:
    files = files_in(tmp_path / "not" / "yet")
    made = files.open()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.crt.stat().st_mode) == 0o644
    assert sorted(p.name for p in files.crt.parent.iterdir()) == ["ca.crt", "ca.key"]
    before = files.key.read_bytes()
    again = files.open()
    assert again.certificate_pem == made.certificate_pem == files.crt.read_bytes()
    assert files.key.read_bytes() == before


def test_two_cas_have_two_names(tmp_path: Path) -> None:
    pems = [files_in(tmp_path / name).open().certificate_pem for name in "ab"]
    assert len({x509.load_pem_x509_certificate(pem).subject for pem in pems}) == 2


def lose_key(files: Files) -> None:
    files.key.unlink()


def lose_certificate(files: Files) -> None:
    files.crt.unlink()


def swap_key(files: Files) -> None:
    openssl("genrsa", "-out", files.key, "2048")


def swap_kind_of_key(files: Files) -> None:
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", files.key)


def ed25519(files: Files) -> None:
    openssl("genpkey", "-algorithm", "ed25519", "-out", files.key)
    sign_ca(files, DRP_EXTENSIONS)


def other_passphrase(files: Files) -> None:
    openssl("genrsa", "-des3", "-passout", "pass:secret", "-out", files.key, "2048")


def cut_key(files: Files) -> None:
    files.key.write_bytes(files.key.read_bytes()[:900])


def empty_key(files: Files) -> None:
    files.key.write_bytes(b"")


def rubbish_certificate(files: Files) -> None:
    files.crt.write_text("<html>not found</html>")


def directory_certificate(files: Files) -> None:
    files.crt.unlink()
    files.crt.mkdir()  # what a bind mount of a missing file leaves


def no_ca(files: Files) -> None:
    sign_ca(files, ("basicConstraints = critical,CA:FALSE",))


def no_constraints(files: Files) -> None:
    sign_ca(files, ("subjectKeyIdentifier = hash",))


def no_signing(files: Files) -> None:
    sign_ca(files, (DRP_EXTENSIONS[0], "keyUsage = critical, digitalSignature"))


BROKEN = [
    (lose_key, "ca.key: missing, while .*ca.crt is there; put it back, or remove"),
    (lose_certificate, "ca.crt: missing, while .*ca.key is there; put it back, or remove"),
    (swap_key, "ca.key: not the key of .*ca.crt; put the pair back"),
    (swap_kind_of_key, "ca.key: not the key of .*ca.crt; put the pair back"),
    (ed25519, "ca.key: not an RSA or EC key"),
    (other_passphrase, "ca.key: encrypted with another passphrase .*, or decrypt it with `openssl pkey"),
    (cut_key, "ca.key: "),
    (empty_key, "ca.key: not a private key in PEM"),
    (rubbish_certificate, "ca.crt: not a certificate in PEM"),
    (directory_certificate, "ca.crt: Is a directory"),
    (no_ca, "ca.crt: not a CA's certificate"),
    (no_constraints, "ca.crt: not a CA's certificate"),
    (no_signing, "ca.crt: its keyUsage lacks keyCertSign"),
]


@pytest.mark.parametrize("break_files, message", BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_files(drp: Files, tmp_path: Path, break_files: Callable[[Files], None], message: str) -> None:
    files = drp.copy(tmp_path)
    break_files(files)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(CertificateError, match=message):
        files.open()
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("days, message", [(1301, "expired on 20"), (-1, "valid only from 20")])
def test_out_of_date(drp: Files, days: int, message: str) -> None:
    with pytest.raises(CertificateError, match=f"ca.crt: {message}"):
        drp.open(lambda: time.time() + days * DAY)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"file: .*this user has to be able to"):
        files_in(tmp_path / "file").open()


# --- several processes at once ---------------------------------------------------------------------------

OPENER = """
import hashlib, sys
from pathlib import Path
from regproxy.tls.authority import Authority

for line in sys.stdin:
    directory = Path(line.strip())
    authority = Authority.open(directory / "ca.crt", directory / "ca.key")
    print(hashlib.sha256(authority.certificate_pem).hexdigest(), flush=True)
"""


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for number in range(25):
        directory = tmp_path / str(number)
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(f"{directory}\n")
            racer.stdin.flush()
        said = set()
        for racer in racers:
            assert racer.stdout is not None
            said.add(racer.stdout.readline())
        assert len(said) == 1 and said != {""}
        assert sorted(p.name for p in directory.iterdir()) == ["ca.crt", "ca.key"]
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0


def test_a_key_whose_certificate_is_on_its_way(drp: Files, tmp_path: Path) -> None:
    files = drp.copy(tmp_path)
    late = files.crt.read_bytes()
    files.crt.unlink()
    said: list[bytes] = []
    with files.key.open("rb") as key:
        fcntl.flock(key, fcntl.LOCK_EX)
        opener = threading.Thread(target=lambda: said.append(files.open().certificate_pem))
        opener.start()
        opener.join(0.2)
        assert opener.is_alive()
        files.crt.write_bytes(late)
    opener.join()
    assert said == [late]


def test_a_key_is_locked_until_its_certificate_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, link, seen = files_in(tmp_path), os.link, []

    def watched(source: str, target: Path) -> None:
        link(source, target)
        with files.key.open("rb") as key:
            try:
                fcntl.flock(key, fcntl.LOCK_SH | fcntl.LOCK_NB)
                seen.append((target.name, "free"))
            except BlockingIOError:
                seen.append((target.name, "locked"))

    monkeypatch.setattr(os, "link", watched)
    files.open()
    assert seen == [("ca.key", "locked"), ("ca.crt", "locked")]
    with files.key.open("rb") as key:
        fcntl.flock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fail_with(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_no_hard_links_and_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "link", fail_with(number))
    monkeypatch.setattr(fcntl, "flock", fail_with(number))
    files = files_in(tmp_path)
    assert files.open().certificate_pem == files.open().certificate_pem
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


def test_somebody_else_is_first_where_there_are_no_hard_links(
    drp: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> NoReturn:
        drp.copy(tmp_path)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert files_in(tmp_path).open().certificate_pem == drp.crt.read_bytes()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(CertificateError, match="No space left"):
        files_in(tmp_path).open()
    assert list(tmp_path.iterdir()) == []

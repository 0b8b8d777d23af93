"""The CA's files over a rotation: who makes them, what is kept, and what an interruption leaves."""

from __future__ import annotations

import os
import re
import resource
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from regproxy.config.sources.assembly import load as configure
from regproxy.core.errors import CertificateError
from regproxy.tls import ca_files, ca_rotation
from regproxy.tls.authority import Authority
from regproxy.tls.ca_files import CaFiles, CaPair, load
from regproxy.tls.ca_scope import WantedNames, wanted
from regproxy.tls.name_constraints import SigningScope
from tests.support.authorities import drp_ca, openssl, subordinate_ca

DAY = 86_400


def want(*names: str, **env: str) -> WantedNames:
    return wanted(configure({"REGISTRIES": " ".join(names), **env}))


@pytest.fixture
def files(tmp_path: Path) -> CaFiles:
    return CaFiles(tmp_path / "ca.crt", tmp_path / "ca.key")


def prepare(files: CaFiles, *names: str, **env: str) -> tuple[tuple[CaPair, ...], str]:
    """Return the CAs, and all that is to be logged."""
    pairs, notes = ca_rotation.prepare(files, want(*names, **env), time.time())
    return pairs, "\n".join(f"{'W' if note.warns else 'I'} {note.text}" for note in notes)


def issuers(pairs: tuple[CaPair, ...], *hosts: str) -> list[int]:
    """Return the number of the CA that signs each host."""
    authority = Authority(pairs, time.time)
    subjects = [pair.certificate.subject for pair in pairs]
    leaves = [x509.load_pem_x509_certificate(authority.leaf(host).chain_pem) for host in hosts]
    return [subjects.index(leaf.issuer) for leaf in leaves]


def test_a_new_one_is_limited(files: CaFiles) -> None:
    (pair,), said = prepare(files, "reg.example")
    assert (pair.covers("reg.example"), pair.covers("other.example"), pair.covers("::1")) == (
        True,
        False,
        False,
    )
    assert "W made a new CA" in said
    assert "I " in said and "reg.example" in said
    assert prepare(files, "reg.example")[1] == ""
    with pytest.raises(CertificateError, match=r"other\.example is outside of the CA's name constraints"):
        Authority((pair,), time.time).leaf("other.example")


def test_a_list_that_grows(files: CaFiles) -> None:
    (old,), _ = prepare(files, "a.example")
    pairs, said = prepare(files, "a.example", "b.example")
    assert re.search(r"W made another CA, .*ca.next, for b.example: clients have to trust it", said)
    assert stat.S_IMODE(files.next.stat().st_mode) == 0o600
    assert issuers(pairs, "a.example", "b.example", "registry-1.docker.io") == [0, 1, 0]
    assert (pairs[0].certificate, pairs[1].covers("a.example")) == (old.certificate, True)
    # The newest is the first that clients get, as some take no other.
    bundle = x509.load_pem_x509_certificates(Authority(pairs, time.time).certificate_pem)
    assert bundle == [pairs[1].certificate, old.certificate]
    # The same again: nothing changes.
    again, said = prepare(files, "a.example", "b.example")
    assert [pair.certificate for pair in again] == [pair.certificate for pair in pairs]
    assert said.startswith("I ") and "a CA waits there since" in said


def test_a_list_that_shrinks_and_grows(files: CaFiles) -> None:
    """Another proxy may have the same files and other registries: neither takes names from the other."""
    prepare(files, "a.example")
    prepare(files, "b.example")
    assert len(prepare(files, "a.example")[0]) == 2
    (one,) = ca_rotation.finish(files, want(), time.time())
    assert (one.covers("a.example"), one.covers("b.example")) == (True, True)
    assert prepare(files, "a.example")[1] == prepare(files, "b.example")[1] == ""
    # By the command it is what is wanted now, and no more, if that is said.
    ca_rotation.rotate(files, want("b.example"), time.time(), drop_names=True)
    with pytest.raises(
        CertificateError, match=r"may not sign a\.example, which the CA in use does.*REGISTRIES"
    ):
        ca_rotation.finish(files, want("b.example"), time.time())
    (one,) = ca_rotation.finish(files, want("b.example"), time.time(), drop_names=True)
    assert (one.covers("a.example"), one.covers("b.example")) == (False, True)


def test_the_environment_of_somebody_else(files: CaFiles) -> None:
    """A command that does not know the proxy's registries cuts none of them off."""
    proxys, now = want("nas.lan", "10.0.0.9:5000", "b.example"), time.time()
    prepare(files, "nas.lan", "10.0.0.9:5000", "b.example")
    before = {path: path.read_bytes() for path in files.crt.parent.iterdir()}
    words = r"would not sign b\.example nas\.lan 10\.0\.0\.9, which the CA in use does: .*REGISTRIES"
    with pytest.raises(CertificateError, match=words):
        ca_rotation.rotate(files, want(), now)
    assert {path: path.read_bytes() for path in before} == before and not files.next.exists()
    # Had it been done: the proxy's reasons name what is to be done.
    (narrow,) = load(
        CaFiles(files.crt.with_name("n.crt"), files.crt.with_name("n.key")), now, make=want().scope
    )
    assert proxys.unsigned([narrow]) == ["nas.lan", "10.0.0.9", "b.example"]
    assert proxys.unsigned([narrow, *load(files, now)]) == []
    with pytest.raises(CertificateError, match=r"nas\.lan is outside of .* reload the proxy \(SIGHUP\)"):
        Authority((narrow,), time.time).leaf("nas.lan")
    # With what the proxy has, and more, it goes through; `finish` needs the files alone then.
    ca_rotation.rotate(files, proxys, now)
    assert ca_rotation.finish(files, want(), now)[0].covers("nas.lan")


def test_one_without_limits_has_no_list(files: CaFiles) -> None:
    """Of what it takes, the names that are configured are not lost."""
    drp_ca(files.crt, files.key)
    ca_rotation.rotate(files, want(), time.time())
    with pytest.raises(CertificateError, match=r"may not sign nas\.lan reg\.\*, which the CA in use does"):
        ca_rotation.finish(files, want("nas.lan", "reg.*"), time.time())
    ca_rotation.rotate(files, want("nas.lan"), time.time(), again=True)
    assert ca_rotation.finish(files, want("nas.lan"), time.time())[0].covers("nas.lan")


def test_too_many_wait(files: CaFiles) -> None:
    for number in range(1, 7):
        pairs, said = prepare(files, *(f"r{n}.example" for n in range(number)))
    assert len(pairs) == 1 + ca_rotation.WAITING_MAX
    assert "4 CAs wait, none for r5.example; run `regproxy ca rotate --finish`" in said
    ca_rotation.finish(files, want(), time.time())
    assert len(prepare(files, *(f"r{n}.example" for n in range(6)))[0]) == 2


@pytest.mark.parametrize("env", [{"REGPROXY_CA_CONSTRAINTS": "false"}, {"REGISTRIES": "reg.*"}], ids=str)
def test_without_limits(files: CaFiles, env: dict[str, str]) -> None:
    pairs, notes = ca_rotation.prepare(files, wanted(configure(env)), time.time())
    assert not pairs[0].is_limited
    assert any("reg.* can't be said" in note.text for note in notes) is ("REGISTRIES" in env)
    assert issuers(pairs, "any.example", "127.0.0.5") == [0, 0]
    # It is taken as it is when there are limits again.
    assert [len(prepare(files, "a.example")[0]), "regproxy ca rotate" in prepare(files, "a.example")[1]] == [
        1,
        True,
    ]


def test_a_mask_that_no_constraint_can_say(files: CaFiles) -> None:
    prepare(files, "a.example")
    pairs, said = prepare(files, "a.example", "reg.*")
    assert (len(pairs), pairs[1].is_limited) == (2, False)
    assert "for reg.*" in said and "W reg.* can't be said by a name constraint" in said
    assert issuers(pairs, "a.example", "reg.anything") == [0, 1]


def test_docker_registry_proxys(files: CaFiles) -> None:
    """It is taken as it is, and nothing is written."""
    drp_ca(files.crt, files.key)
    before = {path: path.read_bytes() for path in files.crt.parent.iterdir()}
    for names in (("a.example",), ("a.example", "b.example", "127.0.0.5")):
        pairs, said = prepare(files, *names)
        assert said.count("\n") == 0
        assert "it may sign every name; `regproxy ca rotate` makes one that is limited" in said
        assert (pairs[0].covers("any.example"), pairs[0].covers("127.0.0.5")) == (True, True)
    assert {path: path.read_bytes() for path in files.crt.parent.iterdir()} == before
    ca_rotation.rotate(files, want("a.example"), time.time())
    (one,) = ca_rotation.finish(files, want(), time.time())
    assert one.is_limited
    assert len(one.certificates) == 2  # with a link from the former one


def test_one_of_somebody_else(files: CaFiles, tmp_path: Path) -> None:
    subordinate_ca(tmp_path / "root", files.crt, files.key, permitted="a.example")
    pairs, said = prepare(files, "a.example", "b.example")
    assert len(pairs) == 1
    assert "ca.crt: its name constraints lack registry-1.docker.io" in said
    assert "b.example: clients would refuse certificates for that" in said
    with pytest.raises(CertificateError, match="signed by another CA; renew it there"):
        ca_rotation.rotate(files, want("a.example"), time.time())


def test_nothing_can_be_written(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(files, "a.example")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", str(files.next))

    monkeypatch.setattr(ca_rotation, "replace", refuse)
    pairs, said = prepare(files, "a.example", "b.example")
    assert len(pairs) == 1
    assert re.search("W no CA for b.example, .*ca.next: Read-only file system", said)


# --- the command -----------------------------------------------------------------------------------------


def test_rotate_twice(files: CaFiles) -> None:
    prepare(files, "a.example")
    with pytest.raises(CertificateError, match="no CA waits; `regproxy ca rotate` makes one"):
        ca_rotation.finish(files, want(), time.time())
    ca_rotation.rotate(files, want("a.example"), time.time())
    with pytest.raises(CertificateError, match="a CA waits there since"):
        ca_rotation.rotate(files, want("a.example"), time.time())
    assert len(ca_rotation.rotate(files, want("a.example"), time.time(), again=True)) == 3


def test_finish(files: CaFiles) -> None:
    prepare(files, "a.example")
    old_key, mode = files.key.read_bytes(), 0o640
    files.key.chmod(mode)
    prepare(files, "a.example", "b.example")
    now = time.time()
    (new,) = ca_rotation.finish(files, want(), now)
    assert old_key not in files.key.read_bytes()
    assert stat.S_IMODE(files.key.stat().st_mode) == mode
    assert not files.next.exists()
    (link,) = new.certificates[1:]
    assert link.subject == new.certificate.subject
    assert abs(link.not_valid_after_utc.timestamp() - now - 365 * DAY) < 2
    assert SigningScope.of_certificate(link).names() == sorted({*want("a.example").names})
    # What is handed out is the CA alone; the link goes along where the former one's clients can use it.
    authority = Authority((new,), time.time)
    assert x509.load_pem_x509_certificates(authority.certificate_pem) == [new.certificate]
    sent = [
        len(x509.load_pem_x509_certificates(authority.leaf(h).chain_pem)) for h in ("a.example", "b.example")
    ]
    assert sent == [2, 1]
    later = Authority((new,), lambda: now + 366 * DAY)
    assert len(x509.load_pem_x509_certificates(later.leaf("a.example").chain_pem)) == 1


def finish_partly(files: CaFiles, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Be killed in finish() after so many of its steps."""
    done = 0
    unlink = Path.unlink

    class Killed(Exception):
        pass

    def step() -> None:
        nonlocal done
        if done == steps:
            raise Killed
        done += 1

    def replacing(path: Path, content: bytes, mode: int) -> None:
        step()
        ca_files.replace(path, content, mode)

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        if path == files.next:
            step()
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(ca_rotation, "replace", replacing)
        patched.setattr(Path, "unlink", unlinking)
        with pytest.raises(Killed):
            ca_rotation.finish(files, want(), time.time())


@pytest.mark.parametrize("steps", range(3))
def test_finish_is_interrupted(files: CaFiles, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Killed after any step: the next start has one CA or the other, whole."""
    prepare(files, "a.example")
    pairs, _ = prepare(files, "a.example", "b.example")
    finish_partly(files, monkeypatch, steps)
    found, _ = prepare(files, "a.example", "b.example")
    assert [pair.certificate for pair in found] == [
        p.certificate for p in (pairs if steps == 0 else pairs[1:])
    ]
    assert issuers(found, "b.example") == [len(found) - 1]


@pytest.mark.parametrize("steps", range(3))
@pytest.mark.parametrize("command", ["finish", "rotate", "encrypt"])
def test_commands_go_on_where_finish_was_interrupted(
    files: CaFiles, monkeypatch: pytest.MonkeyPatch, command: str, steps: int
) -> None:
    """Nobody is told that key and certificate don't fit, and to remove both."""
    prepare(files, "a.example")
    _, new = prepare(files, "a.example", "b.example")[0]
    finish_partly(files, monkeypatch, steps)
    if command == "finish":
        found = ca_rotation.finish(files, want(), time.time())
        assert len(found) == 1
    elif command == "rotate":
        found = ca_rotation.rotate(files, want("a.example", "b.example"), time.time(), again=True)
        assert len(found) == (3 if steps == 0 else 2)
    else:
        (phrase := files.crt.with_name("phrase")).write_text("open sesame")
        found = ca_rotation.encrypt(CaFiles(files.crt, files.key, phrase), time.time())
        assert all(pair.encrypted for pair in found)
    assert new.certificate in [pair.certificate for pair in found]


def test_one_that_expires_while_another_waits(files: CaFiles) -> None:
    prepare(files, "a.example")
    pairs, _ = prepare(files, "a.example", "b.example")
    then = pairs[0].ends - 10 * DAY
    ca_rotation.rotate(files, want("a.example", "b.example"), then, again=True)
    for path in (files.crt, files.key):
        assert path.exists()
    late = pairs[0].ends + DAY
    pairs = load(files, late)
    leaf = x509.load_pem_x509_certificate(Authority(pairs, lambda: late).leaf("a.example").chain_pem)
    assert leaf.issuer == pairs[-1].certificate.subject
    (one,) = ca_rotation.finish(files, want(), late)
    assert one.certificate == pairs[-1].certificate
    with pytest.raises(CertificateError, match="expired on"):
        load(files, one.ends + 1)


def test_warnings_of_an_expiry(files: CaFiles, tmp_path: Path) -> None:
    pairs, _ = prepare(files, "a.example")
    soon = pairs[0].ends - 29 * DAY
    assert ca_rotation.expiring(files, pairs, soon - 2 * DAY) == []
    (said,) = ca_rotation.expiring(files, pairs, soon)
    assert "expires on" in said and "regproxy ca rotate" in said
    pairs = ca_rotation.rotate(files, want("a.example"), soon)
    assert ca_rotation.expiring(files, pairs, soon) == []
    subordinate_ca(tmp_path / "root", files.crt, files.key)
    files.next.unlink()
    pairs = load(files, time.time())
    (said,) = ca_rotation.expiring(files, pairs, pairs[0].ends - DAY)
    assert "put a newer one there" in said


@pytest.mark.parametrize(("key_id", "warns"), [("none", True), ("hash", False)])
def test_a_ca_that_strict_clients_refuse(key_id: str, warns: bool, files: CaFiles, tmp_path: Path) -> None:
    config = tmp_path / "ca.cnf"
    extensions = ("basicConstraints = critical,CA:TRUE", f"subjectKeyIdentifier = {key_id}")
    config.write_text("\n".join(["[req]", "distinguished_name = dn", "[dn]", "[ca]", *extensions, ""]))
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(files.key))
    openssl(
        *("req", "-new", "-x509", "-days", "900", "-key", str(files.key), "-out", str(files.crt)),
        *("-subj", "/CN=ca", "-extensions", "ca", "-config", str(config)),
    )
    _, said = prepare(files, "a.example")
    assert ("W " + f"{files.crt}: it has no Subject Key Identifier" in said) is warns


def test_proxies_that_start_at_once(files: CaFiles) -> None:
    """On an empty directory, with other registries each: all of them are covered in the end."""
    names = [f"r{number}.example" for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: prepare(files, name), names))
    pairs = load(files, time.time())
    assert all(any(pair.covers(name) for pair in pairs) for name in names)
    assert len({pair.certificate.subject for pair in pairs}) == len(pairs) <= 3


# --- files -----------------------------------------------------------------------------------------------


def test_a_disk_that_takes_a_part_of_a_key(files: CaFiles) -> None:
    """write(2) then says how much, without an error: the key that is there must not go for a part of one."""
    prepare(files, "a.example")
    key, hard = files.key.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            ca_files.replace(files.key, key * 2, 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    assert files.key.read_bytes() == key
    assert sorted(path.name for path in files.key.parent.iterdir()) == ["ca.crt", "ca.key"]


# --- the passphrase --------------------------------------------------------------------------------------


def test_encrypted_keys(files: CaFiles, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\nnot this line\n")
    files = CaFiles(files.crt, files.key, phrase)
    prepare(files, "a.example")
    pairs, said = prepare(files, "a.example", "b.example")
    assert "not encrypted" not in said
    assert all(pair.encrypted for pair in pairs)
    for path in (files.key, files.next):
        assert b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in path.read_bytes()
        assert b"-----BEGIN PRIVATE KEY-----" not in path.read_bytes()
    assert "is valid" in openssl("pkey", "-in", files.key, "-passin", f"file:{phrase}", "-noout", "-check")
    (one,) = ca_rotation.finish(files, want(), time.time())
    assert one.encrypted
    assert "sesame" not in repr(files) + repr(one)


@pytest.mark.parametrize("kind", ["plain", "drp"])
def test_keys_are_encrypted_by_the_command(files: CaFiles, tmp_path: Path, kind: str) -> None:
    if kind == "drp":
        drp_ca(files.crt, files.key)
    else:
        prepare(files, "a.example")
        prepare(files, "a.example", "b.example")
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame")
    with pytest.raises(CertificateError, match="REGPROXY_CA_PASSPHRASE_FILE: name the file"):
        ca_rotation.encrypt(files, time.time())
    locked = CaFiles(files.crt, files.key, phrase)
    pairs, said = prepare(locked, "a.example")
    assert "not encrypted, though REGPROXY_CA_PASSPHRASE_FILE is set; `regproxy ca encrypt`" in said
    again = ca_rotation.encrypt(locked, time.time())
    assert [pair.certificate for pair in again] == [pair.certificate for pair in pairs]
    assert all(pair.encrypted for pair in again)
    with pytest.raises(CertificateError, match=r"ca\.key: encrypted with another passphrase"):
        load(files, time.time())


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "phrase: No such file or directory; REGPROXY_CA_PASSPHRASE_FILE names the file"),
        ("\n", "phrase: its first line is empty"),
        ("wrong", "ca.key: not encrypted with the passphrase in REGPROXY_CA_PASSPHRASE_FILE"),
    ],
)
def test_passphrases_that_do_not_fit(files: CaFiles, tmp_path: Path, text: str | None, message: str) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame")
    files = CaFiles(files.crt, files.key, phrase)
    prepare(files, "a.example")
    if text is None:
        phrase.unlink()
    else:
        phrase.write_text(text)
    with pytest.raises(CertificateError, match=message) as error:
        prepare(files, "a.example")
    assert "wrong" not in str(error.value)


def test_a_passphrase_is_a_file(files: CaFiles, tmp_path: Path) -> None:
    """A pipe would give it once, and hold up each worker."""
    os.mkfifo(phrase := tmp_path / "phrase")
    with pytest.raises(
        CertificateError,
        match=r"phrase: not a file, .*; REGPROXY_CA_PASSPHRASE_FILE names",
    ):
        prepare(CaFiles(files.crt, files.key, phrase), "a.example")


def test_rubbish_that_waits(files: CaFiles) -> None:
    prepare(files, "a.example")
    prepare(files, "a.example", "b.example")
    whole = files.next.read_bytes()
    files.next.write_bytes(whole[: whole.index(b"-----BEGIN PRIVATE")])
    with pytest.raises(CertificateError, match=r"ca\.next: a certificate without a key"):
        load(files, time.time())

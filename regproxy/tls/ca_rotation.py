"""Change the CA while clients still trust the former one only.

A new CA waits in ca.next, where clients get it with /ca.crt. Until `finish` the former one signs what its
name constraints take, and the new one what they don't. Only the supervisor, at its start and at a reload,
and the command line write these files, under a lock; workers read them.

For clients that have only the new CA, leaves of the former come with a link from the new one to it. After
`finish` leaves come, for a year, with a link from the former CA to the new one, so that clients that still
have only the former go on with the names that both take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from regproxy.core.errors import CertificateError
from regproxy.core.named_file import read_file
from regproxy.tls.ca_files import CaFiles, CaPair, load, parse_certificates, read_next, replace
from regproxy.tls.ca_scope import WantedNames
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import (
    Issuer,
    day,
    is_made_here,
    made_at,
    make_ca,
    make_link,
    pem,
    private_pem,
    room_below,
)

WAITING_MAX: Final = 4
SOON: Final = 30 * 86400  # seconds before its end from which on there are warnings
_LINK_LIFE: Final = 365 * 86400


class Note(Struct, frozen=True):
    """What is to be logged, as a warning or not."""

    text: str
    warns: bool = True


def prepare(files: CaFiles, wanted: WantedNames, now: float) -> tuple[tuple[CaPair, ...], list[Note]]:
    """Return the CAs, after one was made where there is none, or where the newest lacks names.

    A CA that was not made here is never replaced. Raises CertificateError.
    """
    made = not files.crt.exists()
    _recover(files)
    pairs = load(files, now, make=wanted.scope)
    notes = [Note(f"made a new CA, {files.crt}: clients have to trust it")] if made else []
    if made:
        notes += map(Note, wanted.notes)
        notes.append(Note(f"{files.crt}: it may sign {pairs[0].scope}", warns=False))
    elif wanted.scope.is_limited and not pairs[0].is_limited:
        text = f"{files.crt}: it may sign every name; `regproxy ca rotate` makes one that is limited"
        notes.append(Note(text, warns=False))
    if files.passphrase_file is not None and not all(pair.encrypted for pair in pairs):
        notes.append(Note(_not_encrypted(files)))
    lacking = wanted.lacking(pairs[-1])
    if lacking:
        before = pairs
        pairs, text = _grown(files, wanted, lacking, pairs, now)
        notes += map(Note, (text, *(wanted.notes if pairs is not before else ())))
    elif len(pairs) > 1:
        notes.append(Note(_overlap(files, pairs), warns=False))
    notes += [Note(_without_key_id(files)) for pair in pairs[:1] if not pair.has_key_id]
    notes += [Note(text) for text in expiring(files, pairs, now)]
    return pairs, notes


def _without_key_id(files: CaFiles) -> str:
    return (
        f"{files.crt}: it has no Subject Key Identifier (RFC 5280 4.2.1.2), for which strict clients refuse"
        " it, as Python's are from 3.13 on; `regproxy ca rotate` makes one that has it"
    )


def expiring(files: CaFiles, pairs: tuple[CaPair, ...], now: float) -> list[str]:
    """Return warnings of CAs that soon expire, and that no other one will replace."""
    ends = pairs[-1].ends
    if now < ends - SOON:
        return []
    what = "`regproxy ca rotate` makes another, which clients have to trust before then"
    if not pairs[-1].is_root:
        what = f"put a newer one there, with its key in {files.key}"
    return [f"{files.crt}: the CA expires on {day(ends)}; {what}"]


def rotate(
    files: CaFiles, wanted: WantedNames, now: float, *, again: bool = False, drop_names: bool = False
) -> tuple[CaPair, ...]:
    """Make a CA for the names of the configuration, to be trusted by clients before it signs for all.

    Raises CertificateError: one waits already (unless `again`), the CA is somebody else's to renew, or the
    new one would lack names that clients can be served with now (unless `drop_names`).
    """
    with _changing(files):
        pairs = load(files, now)
        if not pairs[0].is_root:
            raise CertificateError(
                f"{files.crt}: signed by another CA; renew it there: new files are read by themselves"
            )
        if len(pairs) > 1 and not again:
            raise CertificateError(
                f"{files.next}: a CA waits there since {_since(pairs[-1])}; `regproxy ca rotate --finish`,"
                " once clients trust it, or --again for one more"
            )
        lost = [] if drop_names else lost_names(wanted.scope, pairs, wanted)
        if lost:
            raise CertificateError(
                f"{files.crt}: a new CA would not sign {' '.join(lost)}, which the CA in use does: pulls from"
                " there would fail. Run this with the proxy's own REGISTRIES (and REGPROXY_CA_NAMES), or with"
                " --drop-names if these are not wanted any more"
            )
        return _appended(files, pairs, wanted.scope, now)


def finish(
    files: CaFiles, wanted: WantedNames, now: float, *, drop_names: bool = False
) -> tuple[CaPair, ...]:
    """Let the newest CA sign everything, and remove the keys of the former ones.

    Raises CertificateError: none waits, or it lacks names that a former one takes (unless `drop_names`).
    """
    with _changing(files) as finished:
        pairs = load(files, now)
        if finished:
            return pairs
        if len(pairs) == 1:
            raise CertificateError(f"{files.next}: no CA waits; `regproxy ca rotate` makes one")
        new, passphrase = pairs[-1], files.passphrase()
        lost = [] if drop_names else lost_names(new, pairs[:-1], wanted)
        if lost:
            raise CertificateError(
                f"{files.next}: the CA that waits may not sign {' '.join(lost)}, which the CA in use does:"
                " pulls from there would fail. `regproxy ca rotate --again`, with the proxy's own REGISTRIES"
                " (and REGPROXY_CA_NAMES), makes one that may; --drop-names, if these are not wanted any more"
            )
        links = [
            make_link(new.certificate, Issuer(old.certificate, old.key, b""), now, _LINK_LIFE)
            for old in pairs[:-1]
            if room_below(old.certificate) and now < old.ends
        ]
        # In this order: _finish_what_was_cut() goes on from wherever it was interrupted.
        replace(files.crt, b"".join(map(pem, (new.certificate, *links))), 0o644)
        replace(files.key, private_pem(new.key, passphrase), 0o600)
        files.next.unlink()
        return load(files, now)


def lost_names(new: CaPair | SigningScope, former: Iterable[CaPair], wanted: WantedNames) -> list[str]:
    """Return the names and rules that one of the former CAs takes and a new one does not.

    A CA without limits has no list: of its names those count that are configured.
    """
    found: dict[str, None] = {}
    for pair in former:
        names = (*pair.scope.names(), *wanted.names)
        found |= dict.fromkeys(name for name in names if pair.covers(name) and not new.covers(name))
        if new.is_limited and not pair.is_limited:
            found |= dict.fromkeys(wanted.open_rules)
    return list(found)


def encrypt(files: CaFiles, now: float) -> tuple[CaPair, ...]:
    """Write all keys anew, encrypted with the passphrase. Raises CertificateError."""
    with _changing(files):
        passphrase = files.passphrase()
        if passphrase is None:
            raise CertificateError("REGPROXY_CA_PASSPHRASE_FILE: name the file of the passphrase")
        pairs = load(files, now)
        replace(files.key, private_pem(pairs[0].key, passphrase), 0o600)
        if len(pairs) > 1:
            _write_next(files, pairs[1:])
        return load(files, now)


@contextmanager
def _changing(files: CaFiles) -> Iterator[bool]:
    """Hold the lock; the value is whether a finish() was cut short before, and is done with now."""
    try:
        with files.locked():
            yield _finish_what_was_cut(files)
    except OSError as error:
        name = error.filename or files.key
        raise CertificateError(f"{name}: {error.strerror}; this user has to be able to write there") from None


def _recover(files: CaFiles) -> None:
    """Do the rest of a finish() that was cut short, if there is one; else nothing is written."""
    if _cut_short(files) is not None:
        with _changing(files):
            pass


def _finish_what_was_cut(files: CaFiles) -> bool:
    """Do the rest of a finish() that was killed, or met a full disk, after it had written ca.crt."""
    pair = _cut_short(files)
    if pair is None:
        return False
    replace(files.key, private_pem(pair.key, files.passphrase()), 0o600)
    files.next.unlink()
    return True


def _cut_short(files: CaFiles) -> CaPair | None:
    """Return the CA that waits, though it is in its place already; None: there is none."""
    try:
        (first, *_) = parse_certificates(files.crt, read_file(files.crt))
        waiting = read_next(files, files.passphrase()) if files.next.exists() else []
    except OSError:
        return None  # load() has the reason
    return next((pair for pair in waiting if pair.certificate == first), None)


def _grown(
    files: CaFiles, wanted: WantedNames, lacking: list[str], pairs: tuple[CaPair, ...], now: float
) -> tuple[tuple[CaPair, ...], str]:
    """Return the CAs with a new one that takes what the newest lacks, or as they are, and what to say."""
    newest = pairs[-1]
    names = " ".join(lacking)
    if not is_made_here(newest.certificate):
        return (
            pairs,
            f"{files.crt}: its name constraints lack {names}: clients would refuse certificates for that",
        )
    if len(pairs) > WAITING_MAX:
        return (
            pairs,
            f"{files.next}: {len(pairs) - 1} CAs wait, none for {names}; run `regproxy ca rotate --finish`",
        )
    try:
        # With the names of the former: another proxy may use these files for other registries.
        pairs = _added(files, wanted.scope.joined(newest.scope), lacking_of=wanted, now=now)
    except CertificateError as error:
        return pairs, f"no CA for {names}, which the newest may not sign: {error}"
    return pairs, (
        f"made another CA, {files.next}, for {names}: clients have to trust it (/ca.crt) to pull from there;"
        " what they knew goes on with the former, until `regproxy ca rotate --finish`"
    )


def _added(files: CaFiles, scope: SigningScope, *, lacking_of: WantedNames, now: float) -> tuple[CaPair, ...]:
    """Add a CA for `scope`, unless another process has just done so. Raises CertificateError."""
    with _changing(files):
        pairs = load(files, now)
        if not lacking_of.lacking(pairs[-1]):
            return pairs
        return _appended(files, pairs, scope, now)


def _appended(
    files: CaFiles, pairs: tuple[CaPair, ...], scope: SigningScope, now: float
) -> tuple[CaPair, ...]:
    _write_next(files, pairs[1:], b"".join(make_ca(now, scope, files.passphrase())))
    return load(files, now)


def _write_next(files: CaFiles, pairs: Iterable[CaPair], more: bytes = b"") -> None:
    passphrase = files.passphrase()
    text = b"".join(pem(pair.certificate) + private_pem(pair.key, passphrase) for pair in pairs)
    replace(files.next, text + more, 0o600)


def _overlap(files: CaFiles, pairs: tuple[CaPair, ...]) -> str:
    return (
        f"{files.next}: a CA waits there since {_since(pairs[-1])}, for clients to trust it (/ca.crt);"
        " `regproxy ca rotate --finish` ends the former"
    )


def _since(pair: CaPair) -> str:
    return day(made_at(pair.certificate))


def _not_encrypted(files: CaFiles) -> str:
    return (
        f"{files.key}: not encrypted, though REGPROXY_CA_PASSPHRASE_FILE is set; `regproxy ca encrypt`"
        " writes it anew"
    )

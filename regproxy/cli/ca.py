"""The command line of the CA: `regproxy ca show`, `rotate`, `encrypt`, `export`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.config.directories import ca_paths
from regproxy.config.sources import loading
from regproxy.core.errors import RegproxyError
from regproxy.tls import ca_rotation
from regproxy.tls.ca_files import CaFiles, CaPair, files_of, load
from regproxy.tls.ca_scope import WantedNames, wanted
from regproxy.tls.x509 import fingerprint, key_kind, utc

app = typer.Typer(
    help="Manage the CA, also while the proxy is running.", no_args_is_help=True, add_completion=False
)

FinishOption = Annotated[
    bool, typer.Option("--finish", help="Clients trust the new CA: sign everything with it from now on.")
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Make another one, although a new CA is already waiting.")
]
DropNamesOption = Annotated[
    bool, typer.Option("--drop-names", help="Even if the new CA lacks names that the CA in use signs.")
]
NewestOption = Annotated[bool, typer.Option("--newest", help="Only the newest CA.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write. Default: standard output.")
]


class Opened(Struct, frozen=True):
    """The CA's files, and what the configuration wants of it."""

    files: CaFiles
    wanted: WantedNames
    now: float


@app.command()
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the CAs, what they may sign and what is missing. Exit code 1: the CA needs to be replaced."""
    with _opened(config) as ca:
        pairs = load(ca.files, ca.now)
        lacking = ca.wanted.lacking(pairs[-1])
        warnings = ca_rotation.expiring(ca.files, pairs, ca.now)
    if lacking:
        warnings.append(f"the newest CA may not sign {' '.join(lacking)}")
    if as_json:
        _print_json({"cas": _described(ca.files, pairs), "lacking": lacking, "warnings": warnings})
    else:
        _print_table(ca.files, pairs)
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
    raise typer.Exit(FAILED if warnings else 0)


@app.command()
def rotate(
    config: ConfigOption = None,
    finish: FinishOption = False,
    again: AgainOption = False,
    drop_names: DropNamesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new CA for the names that are intercepted now. The old one stays in use until --finish.

    Run it with the proxy's own settings: REGISTRIES says for which names. Exit code 2, and nothing is
    changed: the new CA would lack names that the CA in use signs.

    A running proxy picks up both automatically. Until --finish, /ca.crt contains both CAs.
    """
    with _opened(config) as ca:
        if finish:
            pairs = ca_rotation.finish(ca.files, ca.wanted, ca.now, drop_names=drop_names)
        else:
            pairs = ca_rotation.rotate(ca.files, ca.wanted, ca.now, again=again, drop_names=drop_names)
    if as_json:
        _print_json({"cas": _described(ca.files, pairs)})
        return
    _print_table(ca.files, pairs)
    if not finish:
        for note in ca.wanted.notes:
            typer.echo(f"note: {note}", err=True)
        if pairs[-1].is_limited and not pairs[0].is_limited:
            text = f"the CA in use may sign every name, the new one {pairs[-1].scope} alone (REGISTRIES)"
            typer.echo(f"note: {text}", err=True)
        typer.echo(
            "Make clients trust it: it is in /ca.crt on the proxy port, and /setup installs it. Then run"
            " `regproxy ca rotate --finish`.",
            err=True,
        )
    elif lacking := ca.wanted.lacking(pairs[-1]):
        typer.echo(f"warning: the CA may not sign {' '.join(lacking)}: a reload makes one that may", err=True)


@app.command()
def encrypt(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Encrypt the keys with the passphrase in REGPROXY_CA_PASSPHRASE_FILE."""
    with _opened(config) as ca:
        pairs = ca_rotation.encrypt(ca.files, ca.now)
    if as_json:
        _print_json({"cas": _described(ca.files, pairs)})
    else:
        typer.echo(f"{ca.files.key} is encrypted")


@app.command()
def export(
    config: ConfigOption = None,
    output: OutputOption = None,
    newest: NewestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the certificates that clients have to trust, as PEM, the newest first, as in /ca.crt."""
    with _opened(config) as ca:
        pairs = load(ca.files, ca.now)
        anchors = [pair.anchors_pem.decode() for pair in reversed(pairs)][: 1 if newest else None]
        text = json.dumps({"certificates": anchors}, indent=2) + "\n" if as_json else "".join(anchors)
        if output is not None:
            output.write_text(text)
    if output is None:
        typer.echo(text, nl=False)


def _described(files: CaFiles, pairs: tuple[CaPair, ...]) -> list[dict[str, Any]]:
    return [
        {
            "role": _role(pairs, at),
            "subject": pair.certificate.subject.rfc4514_string(),
            "issuer": pair.certificate.issuer.rfc4514_string(),
            "not_before": pair.certificate.not_valid_before_utc.isoformat(),
            "not_after": utc(pair.ends).isoformat(),
            "sha256": fingerprint(pair.certificate),
            "key": key_kind(pair.key),
            "key_encrypted": pair.encrypted,
            "limited": pair.is_limited,
            "names": pair.scope.names(),
            "links": len(pair.certificates) - len(pair.path),
            "certificate_file": str(files.crt if at == 0 else files.next),
            "key_file": str(files.key if at == 0 else files.next),
        }
        for at, pair in enumerate(pairs)
    ]


def _role(pairs: tuple[CaPair, ...], at: int) -> str:
    if at == 0:
        return "signs"
    return "signs what the former may not" if pairs[at - 1].is_limited else "waits"


def _print_table(files: CaFiles, pairs: tuple[CaPair, ...]) -> None:
    console = Console(soft_wrap=not sys.stdout.isatty())
    for described, pair in zip(_described(files, pairs), pairs, strict=True):
        table = Table(box=None, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        key = f"{described['key']}, {'encrypted' if described['key_encrypted'] else 'not encrypted'}"
        rows = [
            ("subject", described["subject"]),
            ("role", described["role"]),
            ("valid", f"{described['not_before'][:10]} to {described['not_after'][:10]}"),
            ("SHA-256", described["sha256"]),
            ("key", f"{key}, {described['key_file']}"),
            ("may sign", str(pair.scope)),
        ]
        if not pair.is_root:
            rows.insert(1, ("issuer", described["issuer"]))
        for name, value in rows:
            table.add_row(name, value.replace("[", "\\["))
        console.print(table)
        console.print()


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


# --- the files -------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path | None) -> Iterator[Opened]:
    """Find the CA that the configuration names; end the command with code 2 where it can't be used."""
    try:
        config = loading.read(path, os.environ)
        files = files_of(config, *ca_paths(config, os.environ))
        _become_owner(files)
        yield Opened(files, wanted(config), time.time())
    except RegproxyError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the CA'}: {error.strerror or error}")


def _become_owner(files: CaFiles) -> None:
    """Drop root for the key's owner: what root makes beside it would be inaccessible to the proxy."""
    status = files.key.stat() if os.geteuid() == 0 and files.key.exists() else None
    if status is not None and status.st_uid != 0:
        os.setgroups([])
        os.setgid(status.st_gid)
        os.setuid(status.st_uid)

"""`regproxy man`: write a manual page for each command, in the man macros of man(7).

They are made of what `--help` shows, so that neither can be right while the other is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

app = typer.Typer(add_completion=False)

SECTION: Final = 1
_FILES: Final = (
    ("/docker_mirror_cache, /ca", "Cache and CA of the container image."),
    ("~/.cache/regproxy, ~/.local/share/regproxy/ca", "The same where there are no such volumes."),
)
_ENVIRONMENT: Final = (
    "Every setting is a variable of the environment, or a key of the TOML file that REGPROXY_CONFIG names. "
    "`regproxy check-config` lists them with their values."
)

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIRECTORY", help="Directory for the pages; created if missing.")
]


class Page(NamedTuple):
    """A manual page: its name, such as regproxy-cache-verify, and its source."""

    name: str
    text: str


@app.command("man")
def man(directory: DirectoryArgument) -> None:
    """Write manual pages: regproxy.1 and one for each command."""
    from regproxy.cli.main import app as program

    directory.mkdir(parents=True, exist_ok=True)
    for page in pages(typer.main.get_command(program)):
        path = directory / f"{page.name}.{SECTION}"
        path.write_text(page.text)
        typer.echo(path)


def pages(command: Any, name: str = "regproxy") -> Iterator[Page]:
    """Yield the page of a command, and those of the commands below it."""
    context = command.make_context(name, [], resilient_parsing=True)
    below = [
        (word, found)
        for word in (command.list_commands(context) if hasattr(command, "list_commands") else ())
        if not (found := command.get_command(context, word)).hidden
    ]
    yield Page(name.replace(" ", "-"), _page(command, context, name, below))
    for word, found in below:
        yield from pages(found, f"{name} {word}")


def _page(command: Any, context: Any, name: str, below: list[tuple[str, Any]]) -> str:
    title = name.replace(" ", "-")
    text = (command.help or "").strip()
    lines = [f'.TH "{title.upper()}" "{SECTION}" "" "" "regproxy"', ".SH NAME"]
    lines.append(f"{_plain(title)} \\- {_plain(_first_sentence(text))}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f"\\fB{_plain(name)}\\fR {_plain(usage)}"]
    lines += [".SH DESCRIPTION", *_paragraphs(text)]
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    if records:
        lines += [".SH OPTIONS", *_list(records)]
    if below:
        rows = [(f"{title}-{word}({SECTION})", found.get_short_help_str(200)) for word, found in below]
        lines += [".SH COMMANDS", *_list(rows)]
    if title == "regproxy":
        lines += [".SH ENVIRONMENT", _plain(_ENVIRONMENT), ".SH FILES", *_list(_FILES)]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".;:")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        yield ".PP"
        yield _plain(" ".join(paragraph.split()))


def _list(rows: Any) -> Iterator[str]:
    for term, text in rows:
        yield ".TP"
        yield f"\\fB{_plain(term)}\\fR"
        yield _plain(" ".join(text.split()) or "-")


def _plain(text: str) -> str:
    """Return text without a meaning for troff: backslashes, hyphens, and lines that begin like requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return f"\\&{text}" if text[:1] in (".", "'") else text

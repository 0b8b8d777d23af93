"""Values as text for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer
from msgspec import Struct, to_builtins

from regproxy.telemetry.log_format import printable


def time_text(at: float) -> str:
    """Return a time (epoch) as a date with its zone; "-" for 0, which stands for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at)) if at else "-"


def say(text: str, *, err: bool = False) -> None:
    """Print one line. What a terminal would obey is escaped: names and errors come from registries, archives
    and clients.
    """
    typer.echo(printable(text), err=err)


def show_json(document: Any) -> None:
    """Print one JSON document; dataclasses as objects."""
    typer.echo(json.dumps(_plain(document), indent=2))


def show_json_list(name: str, items: Iterable[Any]) -> None:
    """Print `{name: [...]}`, item by item, so that a long list takes no memory."""
    sys.stdout.write(f"{{{json.dumps(name)}: [")
    between = "\n  "
    for item in items:
        sys.stdout.write(between + json.dumps(_plain(item)))
        between = ",\n  "
    sys.stdout.write("\n]}\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return to_builtins(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def show_columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> int:
    """Print a table, a piece at a time, and return how many rows it has. `right`: columns of numbers."""
    count = 0
    for piece in _pieces(rows):
        shown = [[printable(cell) for cell in row] for row in piece]
        widths = [max(len(row[column]) for row in [head, *shown]) for column in range(len(head))]
        for row in [head, *shown] if not count else shown:
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            typer.echo("  ".join(cells).rstrip())
        count += len(piece)
    return count


def _pieces(rows: Iterable[Sequence[str]], size: int = 500) -> Iterator[list[Sequence[str]]]:
    piece: list[Sequence[str]] = []
    for row in rows:
        piece.append(row)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece

"""`regproxy cache pin`, `unpin` and `pins`: what is never evicted nor purged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from regproxy.cli.cache.opening import NamesArgument, opened
from regproxy.cli.common.ending import complain
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.cache.pins import Pinned


def pin(names: NamesArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Keep images or blobs in the cache, whatever its limits.

    Exit code 1: one is not in the cache, or names more than 20,000 contents.
    """
    from regproxy.cache import pins

    done: list[Pinned] = []
    with opened(config) as cache:
        good = True
        for name in names:
            try:
                done.append(pins.pin(cache.root, cache.index, name))
            except pins.PinError as error:
                good = complain(error)
    if as_json:
        show_json({"pinned": done})
    else:
        for each in done:
            say(f"pinned {each.name}: {_held(each)}")
    raise typer.Exit(0 if good else FAILED)


def unpin(names: NamesArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove pins, so that the cache's limits apply again. Exit code 1: a name was not pinned."""
    from regproxy.cache import pins

    done: list[str] = []
    with opened(config) as cache:
        good = True
        for name in names:
            try:
                done.append(pins.unpin(cache.index, name).name)
            except pins.PinError as error:
                good = complain(error)
    if as_json:
        show_json({"unpinned": done})
    else:
        for each in done:
            say(f"unpinned {each}")
    raise typer.Exit(0 if good else FAILED)


def list_pins(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what is pinned."""
    from regproxy.cache import pins

    with opened(config) as cache:
        found = pins.listing(cache.root, cache.index)
    if as_json:
        show_json({"pins": found})
        return
    for pinned in found:
        typer.echo(f"{pinned.name}\t{_held(pinned)}")  # such a name has nothing in it to obey
    if not found:
        say("nothing is pinned", err=True)


def _held(pinned: Pinned) -> str:
    text = f"{pinned.held} blobs, {size_text(pinned.bytes)}"
    missing = pinned.digests - pinned.held
    return f"{text}; {missing} more will be kept once they are cached" if missing else text

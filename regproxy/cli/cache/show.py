"""`regproxy cache show`: an image or content, with all that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import opened
from regproxy.cli.common.ending import complain
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json, time_text
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.inventory.details import Details, Node

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Image name, as for docker pull, or sha256:...")
]


def show(name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show an image's blobs and which of them are cached, its tag's history, and its pins.

    Exit code 1: the image is not in the cache. 2: the cache can't be used.
    """
    from regproxy.cache.pins import PinError
    from regproxy.inventory.catalog import catalogue
    from regproxy.inventory.details import NotHeld, details
    from regproxy.inventory.reading import index_reader

    with opened(config) as cache, index_reader(cache.root) as reader:
        catalogue(cache.root, cache.index)
        try:
            found = details(reader, name)
        except (NotHeld, PinError) as error:
            complain(error)
            raise typer.Exit(FAILED) from None
    if as_json:
        show_json(found)
    else:
        _show(found)


def _show(found: Details) -> None:
    for name, value in _lines(found):
        say(f"{name:<11} {value}")
    for line in _drawn(found.tree):
        say(line)
    if found.cut:
        say("(and more)")


def _lines(found: Details) -> list[tuple[str, str]]:
    content, use = found.content, found.use
    lines = [("name", found.name), ("digest", found.digest)]
    if content.stored:
        held = "all" if content.whole else f"{content.held_objects} of {content.objects} blobs"
        lines += [
            ("size", f"{size_text(content.size)}; held: {held}, {size_text(content.held_bytes)}"),
            ("platforms", ", ".join(content.platforms) or "-"),
            ("last used", f"{time_text(content.last_used)}; {content.hits} hits"),
            ("stored", time_text(content.stored_at)),
        ]
    else:
        lines.append(("held", "no"))
    if use is not None:
        lines += [("pins", ", ".join(use.pins) or "none"), ("images", ", ".join(use.images) or "none")]
        lines.append(("from", ", ".join(use.places) or "unknown"))
    for variant in found.tag.variants if found.tag is not None else ():
        what = "is" if variant.current else "was"
        lines.append((what, f"{variant.digest} ({variant.media_type}), by {time_text(variant.fetched_at)}"))
    for seen in found.tag.history if found.tag is not None else ():
        lines.append(("seen", f"{seen.digest}, {time_text(seen.first_at)} to {time_text(seen.last_at)}"))
    return lines


def _drawn(node: Node, first: str = "", rest: str = "") -> Iterator[str]:
    """Yield the lines of a tree. `first` and `rest`: what stands before its first line, and the others."""
    about = " ".join(each for each in (node.kind, node.platform, node.media_type) if each)
    yield f"{first}{node.digest}  {size_text(node.size)}  {'held' if node.held else 'missing'}  {about}"
    for number, child in enumerate(node.children, 1):
        last = number == len(node.children)
        yield from _drawn(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

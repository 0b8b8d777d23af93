"""`regproxy cache purge`: remove images and blobs while the proxy runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import Cache, opened, parsed_age, place_of
from regproxy.cli.cache.progress import count_view
from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.inventory.purge import Purge, Selection
    from regproxy.inventory.reading import IndexReader

_SHOWN = 20

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Image names, as for docker pull, or sha256:..."),
]
TagOption = Annotated[str, typer.Option("--tag", help="Only tags with this name.")]
RegistryOption = Annotated[
    str, typer.Option("--registry", help="Only images of this registry, such as ghcr.io.")
]
RepositoryOption = Annotated[
    str, typer.Option("--repository", help="Only images of this repository, such as library/nginx.")
]
UnusedOption = Annotated[
    str, typer.Option("--older-than", metavar="TIME", help="Last used longer ago than this, e.g. 30d.")
]
HitOption = Annotated[
    bool, typer.Option("--never-hit", help="Only what has never been served from the cache.")
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be removed and kept, and remove nothing.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


def purge(
    names: NamesArgument = None,
    tag: TagOption = "",
    registry: RegistryOption = "",
    repository: RepositoryOption = "",
    older_than: UnusedOption = "",
    never_hit: HitOption = False,
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove images and the blobs that only they use. All conditions have to match.

    Pinned images are kept, and blobs that other images use. A digest is removed from all tags. Exit code 0
    even if nothing was old or unused enough; 1: you answered no, or nothing in the cache is called so; 2: the
    cache can't be used, or nothing was selected.
    """
    from regproxy.cache.pins import PinError, parse
    from regproxy.inventory.purge import NOTHING, Selection
    from regproxy.inventory.reading import index_reader

    try:
        images = tuple(map(parse, names or ()))
    except PinError as error:
        fail(error)
    age = parsed_age(older_than)
    since = time.time() - age if age else None
    selection = Selection(images, place_of(registry), repository, tag, since, never_hit)
    if selection.is_empty:
        fail(NOTHING)
    asks = not (yes or dry_run)
    if asks and (as_json or not sys.stdin.isatty()):
        fail("not a terminal: pass --yes to remove without asking, or --dry-run to preview")
    with opened(config) as cache, index_reader(cache.root) as reader:
        result = _run(cache, reader, selection, dry_run=asks or dry_run)
        misnamed = _is_misnamed(result, selection)
        if asks and not misnamed:
            _say(result)
            typer.confirm("Remove this?", abort=True)
            result = _run(cache, reader, selection, dry_run=False)
        hints = _hints(reader, selection) if misnamed else []
    if as_json:
        show_json(result)
    elif not misnamed:
        _say(result)
    if misnamed:
        say(f"regproxy: nothing in the cache matches{''.join(hints)}", err=True)
        raise typer.Exit(FAILED)


def _is_misnamed(result: Purge, selection: Selection) -> bool:
    """Tell whether nothing is called what was named. Nothing that is old enough is a usual result."""
    by_use = selection.unused_since is not None or selection.never_hit
    return not (by_use or result.tags or result.objects or result.done or result.kept)


def _hints(reader: IndexReader, selection: Selection) -> list[str]:
    from regproxy.inventory.purge import other_ports

    wanted = [image for image in selection.images if image.host]
    return [f"; {name} is there" for image in wanted for name in other_ports(reader, image)]


def _run(cache: Cache, reader: IndexReader, selection: Selection, *, dry_run: bool) -> Purge:
    from regproxy.inventory.purge import purge as remove

    with count_view("removing") as shown:
        return remove(
            reader,
            cache.index,
            selection,
            dry_run=dry_run,
            on_progress=lambda so_far: shown.progress(so_far.done, so_far.objects),
        )


def _say(result: Purge) -> None:
    """Tell what goes, or has gone."""
    for name in result.images[:_SHOWN]:
        say(f"{'would remove' if result.dry_run else 'removed'} {name}")
    if result.tags > _SHOWN:
        say(f"... and {result.tags - min(_SHOWN, len(result.images))} more")
    for each in result.kept[:_SHOWN]:
        say(f"kept {each.name}: {'pinned' if each.why == 'pinned' else 'used by images that are kept'}")
    if len(result.kept) > _SHOWN:
        say(f"... and {len(result.kept) - _SHOWN} more are kept")
    count = result.objects if result.dry_run else result.done
    verb = "would be removed" if result.dry_run else "removed"
    say(f"{result.tags} tags and {count} blobs {verb}, {size_text(result.bytes)}")

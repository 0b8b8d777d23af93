"""`regproxy cache warm`: have the running proxy fetch images ahead of their clients."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from regproxy.cli.cache.opening import opened
from regproxy.cli.cache.progress import count_view
from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED, INTERRUPTED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json
from regproxy.core.errors import RegproxyError
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.cli.common.admin_client import AdminClient
    from regproxy.inventory.warm_list import Wish

_POLL: Final = 0.25  # seconds
_AT_ONCE: Final = 200  # images of one job
_OPEN: Final = ("queued", "running")

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGE", help="Image name, as for docker pull.")
]
FileOption = Annotated[
    str,
    typer.Option("--file", "-f", help="File with one IMAGE [PLATFORM...] per line; - for standard input."),
]
PlatformsOption = Annotated[
    list[str] | None,
    typer.Option("--platform", help="Platform, such as linux/amd64. Can be repeated. Default: all."),
]


def warm(
    names: NamesArgument = None,
    file: FileOption = "",
    platforms: PlatformsOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Have the running proxy fetch images, with all their layers, before clients ask for them.

    Exit code 1: an image could not be fetched completely. 2: no proxy is running here, or it refused.
    """
    from regproxy.cli.common.admin_client import AdminClient

    wishes = _wishes(names or [], file, tuple(platforms or ()))
    if not wishes:
        raise typer.BadParameter("name at least one image, or pass --file with a list of them")
    images: list[dict[str, Any]] = []
    with opened(config) as cache:
        client = AdminClient(cache.config, cache.root, writes=True)
        try:
            with count_view("warming") as shown:
                for done, piece in _pieces(wishes):
                    for job in _followed(client, piece):
                        shown.progress(done + job["done"], len(wishes))
                    images += _images_of(job)
        except RegproxyError as error:
            fail(error)
    if as_json:
        show_json({"images": images})
    else:
        for image in images:
            _say(image)
    raise typer.Exit(FAILED if any(image["error"] for image in images) else 0)


def _wishes(names: list[str], file: str, platforms: tuple[str, ...]) -> list[Wish]:
    from regproxy.cache.pins import PinError
    from regproxy.inventory.warm_list import parse_list, wish

    try:
        found = [wish(name, platforms) for name in names]
        if file:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
            found += parse_list(text, platforms)
    except PinError as error:
        fail(f"{file}: {error}" if file and str(error).startswith("line ") else error)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or error}")
    return found


def _pieces(wishes: list[Wish]) -> Iterator[tuple[int, list[Wish]]]:
    for start in range(0, len(wishes), _AT_ONCE):
        yield start, wishes[start : start + _AT_ONCE]


def _followed(client: AdminClient, wishes: list[Wish]) -> Iterator[dict[str, Any]]:
    """Begin a job, and yield it until it has ended; it is cancelled if this is interrupted."""
    images = [{"name": each.reference.name, "platforms": list(each.platforms)} for each in wishes]
    job = client.ask("POST", "warm", {"images": images})
    try:
        while job["state"] in _OPEN:
            time.sleep(_POLL)
            job = client.ask("GET", f"jobs/{job['id']}")
            yield job
    except KeyboardInterrupt:
        client.ask("DELETE", f"jobs/{job['id']}")
        say("regproxy: cancelled; what has been fetched is kept", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _images_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what has become of the images of a job that has ended."""
    images = list((job["result"] or {}).get("images", []))
    if job["state"] != "done":
        why = job["error"] or f"the job was {job['state']}"
        known = {image["name"] for image in images}
        nothing = {"digest": "", "objects": 0, "fetched": 0, "bytes": 0, "error": why}
        images += [{"name": name, **nothing} for name in job["what"]["images"] if name not in known]
    return images


def _say(image: dict[str, Any]) -> None:
    if image["error"]:
        say(f"regproxy: {image['name']}: {image['error']}", err=True)
    else:
        got = f"{image['fetched']} fetched, {size_text(image['bytes'])}"
        say(f"{image['name']}: {image['objects']} blobs; {got}")

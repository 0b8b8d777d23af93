"""The pages of images: the list, one image, and what can be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from regproxy.admin.endpoints.cache_jobs import CacheJobs, PinOrder, PurgeOrder, WarmImage, WarmOrder
from regproxy.admin.endpoints.inventory import ImageQuery, Inventory
from regproxy.admin.gatekeeper import CsrfForm
from regproxy.admin.operations import Call, get, post
from regproxy.admin.replies import Problem, Reply, see_other
from regproxy.admin.visitors import Scope
from regproxy.cache.pins import PinError, parse
from regproxy.web.asking import with_body
from regproxy.web.rendering import Pages
from regproxy.web.wording import segment

ACTIONS: Final = ("pin", "unpin", "purge", "warm")


class ImagePages:
    """The pages below `/images`."""

    def __init__(self, pages: Pages, inventory: Inventory, jobs: CacheJobs, threads: Executor) -> None:
        self._pages = pages
        self._inventory = inventory
        self._jobs = jobs
        self._threads = threads

    @get("/images", thread=True)
    def images_page(self, call: Call[ImageQuery, None]) -> Reply:
        """Return a page of the list of images."""
        found, asked = self._inventory.list_images(call), call.query

        def link(**changes: Any) -> str:
            """Return where the same list is, but for `changes`; a list that is sorted anew begins anew."""
            return _link(asked, changes)

        return self._pages.page(
            *("images", call),
            images=found.items,
            asked=asked,
            link=link,
            next=link(cursor=found.next) if found.next is not None else "",
        )

    @get("/images/{name}", thread=True)
    def image_page(self, call: Call[None, None]) -> Reply:
        """Return one image with all that it names."""
        return self._pages.page("image", call, image=self._inventory.show_image(call))

    @get("/images/{name}/{action}", Scope.WRITE, thread=True)
    def confirm_page(self, call: Call[None, None]) -> Reply:
        """Return the question whether that is to be done, with what would come of it."""
        name, action = _asked(call)
        would = self._jobs.would_purge(PurgeOrder(images=[name])) if action == "purge" else None
        return self._pages.page("confirm", call, name=name, action=action, would=would)

    @post("/images/{name}/{action}", Scope.WRITE, forms=True)
    async def do_action(self, call: Call[None, CsrfForm]) -> Reply:
        """Do it, and lead to what has come of it."""
        name, action = _asked(call)
        if action == "purge":
            purge = PurgeOrder(images=[name])
            return _led_to_job((await self._jobs.purge_cache(with_body(call, purge))).id)
        if action == "warm":
            warm = WarmOrder(images=[WarmImage(name=name)])
            return _led_to_job((await self._jobs.warm_cache(with_body(call, warm))).id)
        change = self._jobs.pin_images if action == "pin" else self._jobs.unpin_images
        await self._changed(change, with_body(call, PinOrder(images=[name])))
        return see_other(f"/images/{segment(name)}")

    async def _changed(self, change: Callable[[Any], Any], call: Call[None, PinOrder]) -> None:
        """Pin or unpin. Raises Problem 409 where that can't be."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, change, call)
        errors = [each.error for each in found.images if each.error]
        if errors:
            raise Problem(409, "; ".join(errors))


def _led_to_job(identity: str) -> Reply:
    return see_other(f"/jobs/{segment(identity)}")


def _asked(call: Call[Any, Any]) -> tuple[str, str]:
    """Return the image and the action of a path. Raises Problem 404 and 400."""
    name, action = call.path["name"], call.path["action"]
    if action not in ACTIONS:
        raise Problem(404, f"no such action; there are {', '.join(ACTIONS)}")
    try:
        parse(name)
    except PinError as error:
        raise Problem(400, str(error), field="name") from None
    return name, action


def _link(asked: ImageQuery, changes: dict[str, Any]) -> str:
    fields = msgspec.to_builtins(asked) | {"cursor": None} | changes
    words = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in fields.items()
        if value not in (None, "", False) and (name, value) != ("sort", "name")
    }
    if words.get("limit") == ImageQuery().limit:
        del words["limit"]
    return f"/images?{urlencode(words)}" if words else "/images"

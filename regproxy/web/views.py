"""The views: endpoints that answer with HTML, by the same functions as the API's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from regproxy.admin.endpoints.activity import Activity
from regproxy.admin.endpoints.cache_jobs import CacheJobs, PinOrder, PurgeOrder, WarmImage, WarmOrder
from regproxy.admin.endpoints.inventory import BlobQuery, ImageQuery, Inventory
from regproxy.admin.endpoints.registries import Registries
from regproxy.admin.endpoints.status import StatusReport
from regproxy.admin.operations import Call, get, post
from regproxy.admin.paging import Paged
from regproxy.admin.replies import HTML, Problem, Reply
from regproxy.admin.visitors import Scope
from regproxy.core.errors import StoreError
from regproxy.telemetry.usage.usage_file import UsageFile
from regproxy.web.findings import findings
from regproxy.web.rendering import render, static_file

_ROWS: Final = 10  # of each table of the overview
_PAGE: Final = 50
_CHANGES: Final = 20

Action = Literal["pin", "unpin", "purge", "warm"]
T = TypeVar("T")
# What a person is asked before it is done.
QUESTIONS: Final[dict[str, str]] = {
    "pin": "Keep it in the cache, whatever the limits say?",
    "unpin": "Let the limits decide on it again?",
    "purge": "Remove it, with the content that no other image names? Who pulls it next has to wait.",
    "warm": "Fetch it now, for all platforms, so that nobody has to wait for it?",
}


class ImagesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which images are shown."""

    name: Annotated[str, Meta(max_length=512)] = ""
    sort: Literal["name", "size", "used"] = "name"
    never_hit: Literal["", "on"] = ""
    cursor: Annotated[str, Meta(max_length=4096)] = ""


class ActionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done with which image."""

    action: Action
    name: Annotated[str, Meta(min_length=1, max_length=512)]


class ActionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same, confirmed."""

    action: Action
    name: Annotated[str, Meta(min_length=1, max_length=512)]
    csrf_token: Annotated[str, Meta(max_length=256)] | None = None


class Views:
    """The endpoints of the web page."""

    def __init__(
        self,
        status: StatusReport,
        activity: Activity,
        registries: Registries,
        inventory: Inventory,
        jobs: CacheJobs,
        usage: UsageFile,
        on_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        """`on_thread(work)`: an awaitable of what work() returns."""
        self._status, self._activity, self._registries = status, activity, registries
        self._inventory, self._jobs, self._usage = inventory, jobs, usage
        self._on_thread = on_thread

    @get("/", media="text/html")
    async def overview(self, call: Call[None, None]) -> Reply:
        """Return the overview."""
        paged = _asking(call, Paged(limit=_PAGE))
        registries = (await self._registries.registries(paged)).items
        downloads = (await self._activity.downloads(paged)).items
        clients = (await self._activity.clients(paged)).items
        now = time.time()
        status = await self._on_thread(self._status.current)
        used = await self._on_thread(lambda: self._used(now))
        unused = await self._on_thread(lambda: self._never_hit(call))
        return _page(
            *(call, "overview.html"),
            status=status,
            findings=findings(status, registries, now),
            registries=registries,
            downloads=downloads,
            clients=sorted(clients, key=lambda each: -each.requests)[:_ROWS],
            unused=unused,
            now=now,
            **used,
        )

    def _used(self, now: float) -> dict[str, Any]:
        def asked(ask: Callable[[], list[T]]) -> list[T]:
            try:
                return ask()
            except StoreError:
                return []  # the file may be made or replaced just now

        usage = self._usage
        return {
            "top_images": asked(lambda: usage.top_images("24h", _ROWS, now)),
            "top_clients": asked(lambda: usage.top_clients("24h", _ROWS, now)),
            "moves": asked(lambda: usage.tag_moves(_CHANGES)),
            "refusals": asked(lambda: usage.refusals(_CHANGES)),
        }

    def _never_hit(self, call: Call[Any, Any]) -> Any:
        query = BlobQuery(limit=_ROWS, sort="size", never_hit=True)
        try:
            return self._inventory.list_blobs(_asking(call, query)).items
        except Problem:
            return []

    @get("/images", thread=True, media="text/html")
    def images(self, call: Call[ImagesQuery, None]) -> Reply:
        """Return a page of the images in the cache."""
        asked = call.query
        query = ImageQuery(
            name=asked.name,
            sort=asked.sort,
            never_hit=asked.never_hit == "on",
            limit=_PAGE,
            cursor=asked.cursor or None,
        )
        page = self._inventory.list_images(_asking(call, query))
        here = {"name": asked.name, "sort": asked.sort, "never_hit": asked.never_hit}
        following = f"/images?{urlencode(here | {'cursor': page.next})}" if page.next else ""
        return _page(call, "images.html", images=page.items, asked=asked, following=following)

    @get("/images/{name}", thread=True, media="text/html")
    def image(self, call: Call[None, None]) -> Reply:
        """Return one image, or content."""
        return _page(call, "image.html", image=self._inventory.show_image(call))

    @get("/jobs", thread=True, media="text/html")
    def jobs(self, call: Call[None, None]) -> Reply:
        """Return the latest jobs."""
        page = self._jobs.list_jobs(_asking(call, Paged(limit=_PAGE)))
        return _page(call, "jobs.html", jobs=page.items)

    @get("/confirm", media="text/html")
    def confirm(self, call: Call[ActionQuery, None]) -> Reply:
        """Return a question, with a form that says yes."""
        asked = call.query
        return _page(call, "confirm.html", asked=asked, question=QUESTIONS[asked.action])

    @post("/actions", Scope.WRITE, forms=True)
    async def act(self, call: Call[None, ActionForm]) -> Reply:
        """Do what was confirmed, and lead to where it shows."""
        action, name = call.body.action, call.body.name
        if action in ("purge", "warm"):
            if action == "purge":
                await self._jobs.purge_cache(_ordering(call, PurgeOrder(images=[name])))
            else:
                await self._jobs.warm_cache(_ordering(call, WarmOrder(images=[WarmImage(name=name)])))
            return _led("/jobs")
        change = self._jobs.pin_images if action == "pin" else self._jobs.unpin_images
        order = _ordering(call, PinOrder(images=[name]))
        (result,) = (await self._on_thread(lambda: change(order))).images
        if result.error:
            raise Problem(404, result.error)
        return _led(f"/images/{quote(name, safe='')}")

    @get("/static/{name}", Scope.OPEN, media="text/css")
    def static(self, call: Call[None, None]) -> Reply:
        """Return a style sheet or a script."""
        try:
            kind, body = static_file(call.path["name"])
        except KeyError:
            raise Problem(404, "there is no such file") from None
        return Reply(200, kind, body)


def _asking(call: Call[Any, Any], query: Any) -> Any:
    return replace(call, query=query)


def _ordering(call: Call[Any, Any], body: Any) -> Any:
    return replace(call, body=body)


def _page(call: Call[Any, Any], template: str, **values: Any) -> Reply:
    visitor = call.visitor
    login = visitor.login
    return Reply(
        200,
        HTML,
        render(
            template,
            writes=visitor.scope is Scope.WRITE,
            csrf=login.csrf if login is not None else "",
            path=call.operation.path,
            **values,
        ),
    )


def _led(where: str) -> Reply:
    return Reply(303, HTML, b"", ((b"location", where.encode()),))

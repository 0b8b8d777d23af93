"""The pages of jobs: long work, of all workers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.operations import Call, get, post
from regproxy.admin.paging import Paged
from regproxy.admin.replies import Problem, Reply
from regproxy.admin.visitors import Scope
from regproxy.web.asking import with_body
from regproxy.web.image_pages import see_other
from regproxy.web.rendering import Pages
from regproxy.web.wording import segment


class CancelForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the button of a job sends."""

    csrf_token: Annotated[str, Meta(max_length=256)] = ""


class JobPages:
    """The pages below `/jobs`."""

    def __init__(self, pages: Pages, jobs: CacheJobs) -> None:
        self._pages = pages
        self._jobs = jobs

    @get("/jobs", thread=True)
    def jobs_page(self, call: Call[Paged, None]) -> Reply:
        """Return a page of the list of jobs."""
        try:
            found = self._jobs.list_jobs(call)
        except Problem as problem:
            return self._pages.problem(call, problem)
        return self._pages.page("jobs", call, jobs=found.items, next=found.next, limit=call.query.limit)

    @get("/jobs/{id}", thread=True)
    def job_page(self, call: Call[None, None]) -> Reply:
        """Return one job."""
        try:
            job = self._jobs.show_job(call)
        except Problem as problem:
            return self._pages.problem(call, problem)
        return self._pages.page("job", call, job=job, asked=_indented(job.what), result=_indented(job.result))

    @post("/jobs/{id}/cancel", Scope.WRITE, forms=True)
    async def cancel_page(self, call: Call[None, CancelForm]) -> Reply:
        """Cancel a job, and lead back to it."""
        try:
            job = await self._jobs.cancel_job(with_body(call, None))
        except Problem as problem:
            return self._pages.problem(call, problem)
        return see_other(f"/jobs/{segment(job.id)}")


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else "everything"

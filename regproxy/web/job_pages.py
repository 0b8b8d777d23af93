"""The pages of jobs: long work, of all workers."""

from __future__ import annotations

import json
from typing import Any

from regproxy.admin.endpoints.cache_jobs import CacheJobs
from regproxy.admin.gatekeeper import CsrfForm
from regproxy.admin.operations import Call, get, post
from regproxy.admin.paging import Paged
from regproxy.admin.replies import Reply, see_other
from regproxy.admin.visitors import Scope
from regproxy.web.asking import with_body
from regproxy.web.rendering import Pages
from regproxy.web.wording import segment


class JobPages:
    """The pages below `/jobs`."""

    def __init__(self, pages: Pages, jobs: CacheJobs) -> None:
        self._pages = pages
        self._jobs = jobs

    @get("/jobs", thread=True)
    def jobs_page(self, call: Call[Paged, None]) -> Reply:
        """Return a page of the list of jobs."""
        found = self._jobs.list_jobs(call)
        return self._pages.page("jobs", call, jobs=found.items, next=found.next, limit=call.query.limit)

    @get("/jobs/{id}", thread=True)
    def job_page(self, call: Call[None, None]) -> Reply:
        """Return one job."""
        job = self._jobs.show_job(call)
        return self._pages.page("job", call, job=job, asked=_indented(job.what), result=_indented(job.result))

    @post("/jobs/{id}/cancel", Scope.WRITE, forms=True)
    async def cancel_page(self, call: Call[None, CsrfForm]) -> Reply:
        """Cancel a job, and lead back to it."""
        job = await self._jobs.cancel_job(with_body(call, None))
        return see_other(f"/jobs/{segment(job.id)}")


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else "everything"

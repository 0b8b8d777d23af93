"""The pictures of the web page can still be drawn: the templates take the made-up figures."""

from __future__ import annotations

from regproxy.web.rendering import Pages
from tests.project import pictures


def test_pages_of_made_up_figures() -> None:
    pages, call = Pages("1", clock=lambda: pictures.NOW), pictures.visit()
    overview, images = pictures.overview(pages, call).decode(), pictures.images(pages, call).decode()
    assert "quay.io can&#39;t be reached" in overview and "14 of 200 left" in overview
    assert images.count("<tr><td><a href=") == 7

"""Every page has its place in the site's navigation; the check of the built site finds what it is for.

`make docs` builds and checks the site itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import site
from tests.support import ROOT


class _Loader(yaml.SafeLoader):
    """Takes what mkdocs.yml has for Python for nothing."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def configuration() -> dict[str, Any]:
    """Return what mkdocs.yml says."""
    return dict(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader))


def pages_of(nav: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(each)


def test_every_page_is_in_the_navigation() -> None:
    pages = sorted(pages_of(configuration()["nav"]))
    assert pages == sorted(str(path.relative_to(site.DOCS)) for path in site.DOCS.rglob("*.md"))


def test_nothing_is_loaded_from_elsewhere() -> None:
    said = configuration()
    assert said["theme"]["font"] is False
    assert "repo_url" not in said  # its stars would be asked for
    assert not any(map(site.is_elsewhere, said["extra_css"]))


def test_what_belongs_to_an_item_is_indented_by_four() -> None:
    """By two blanks GitHub takes a block for a part of the item above it, and the site does not."""
    for path in site.DOCS.rglob("*.md"):
        fenced, before = False, ""
        for number, line in enumerate(path.read_text().split("\n"), 1):
            text = line.lstrip()
            fenced ^= text.startswith("```")
            begins = not before and not text.startswith(("- ", "```"))
            assert fenced or not begins or len(line) - len(text) not in (1, 2, 3), f"{path.name}:{number}"
            before = line


BODY = "<html><head>{head}</head><body><article><h1 id='a'>A</h1>{body}</article></body></html>"


def faults(place: Path, monkeypatch: pytest.MonkeyPatch, *, head: str = "", body: str = "") -> list[str]:
    """Return what is found in a site of one page whose source has a heading alone."""
    docs, built = place / "docs", place / "site"
    docs.mkdir()
    built.mkdir()
    (docs / "index.md").write_text("# A\n")
    (built / "index.html").write_text(BODY.format(head=head, body=body))
    monkeypatch.setattr(site, "DOCS", docs)
    return site.faults_of(built)


def test_a_good_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "<p><a href='#a'>here</a> <a href='index.html#a'>x</a> <a href='https://example.org/x?y#z'>y</a></p>"
    )
    assert faults(tmp_path, monkeypatch, body=body) == []


@pytest.mark.parametrize(
    ("head", "body", "want"),
    [
        (
            "<script src='https://cdn.example/x.js'></script>",
            "",
            "index.html: loads https://cdn.example/x.js",
        ),
        ("<link rel=stylesheet href='//fonts.example/x.css'>", "", "index.html: loads //fonts.example/x.css"),
        ("", "<pre class='mermaid'></pre>", "index.html: loads https://unpkg.com/mermaid"),
        ("", "<a href='nowhere.html'>x</a>", "index.html: nowhere.html: there is no such file"),
        ("", "<a href='#b'>x</a>", "index.html: #b: there is no such anchor"),
        ("", "<a href='https://exa mple.org/'>x</a>", "index.html: https://exa mple.org/: is no URL"),
        ("", "<ul><li>x</li></ul>", "index.html: 1 of <li>, where CommonMark has 0"),
    ],
)
def test_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, body: str, want: str
) -> None:
    assert want in faults(tmp_path, monkeypatch, head=head, body=body)


def test_style_sheets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(tmp_path, monkeypatch) == []
    (tmp_path / "site" / "x.css").write_text("@font-face{src:url('https://fonts.example/x.woff2')}")
    assert site.faults_of(tmp_path / "site") == ["x.css: loads https://fonts.example/x.woff2"]

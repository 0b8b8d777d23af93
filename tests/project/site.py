"""Check the documentation's site after `make docs` has built it: `python -m tests.project.site build/site`.

mkdocs has checked the links and anchors of the pages. Here: whatever is linked or loaded is there, nothing is
loaded from elsewhere, links to elsewhere are well formed (nobody is asked), and each page has the headings,
lists, tables and blocks of code that its Markdown has by CommonMark, as GitHub shows it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

from tests.support import ROOT

DOCS: Final = ROOT / "docs"
LOADING: Final = {"script", "img", "iframe", "source", "audio", "video", "object", "embed", "link"}
STRUCTURE: Final = ("h1", "h2", "h3", "h4", "ol", "ul", "li", "tr", "td", "pre", "blockquote", "img")
VOID: Final = {"img", "br", "hr", "input", "link", "meta", "source", "embed", "wbr", "area", "col"}
_CSS_URL: Final = re.compile(
    rb"url\(\s*['\"]?((?:https?:)?//[^)'\"]*)|@import\s+['\"]((?:https?:)?//[^'\"]*)"
)


class Page(HTMLParser):
    """A built page: what it links and loads, its anchors, and the structure of its article."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._within = 0  # how many elements are open, from the article's on
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        told = dict(attrs)
        self.anchors |= {str(told[name]) for name in ("id", "name") if told.get(name)}
        for name in ("href", "src", "data", "srcset", "poster"):
            if url := told.get(name):
                (self.loads if tag in LOADING else self.links).append(url)
        if "mermaid" in str(told.get("class")).split():
            self.loads.append("https://unpkg.com/mermaid")  # which draws it
        if self._within or tag == "article":
            self._within += tag not in VOID
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        """Note an element's end."""
        if self._within and tag not in VOID:
            self._within -= 1


def by_commonmark(text: str) -> Counter[str]:
    """Return how many of the elements of STRUCTURE a Markdown text has."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return Counter(re.findall(rf"<({'|'.join(STRUCTURE)})\b", html))


def faults_of(site: Path) -> list[str]:
    """Return what is wrong with a site, one text for each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: loads {url}" for url in page.loads if is_elsewhere(url)]
        for url in page.links + page.loads:
            if why := _broken(url, path, site, pages):
                found.append(f"{name}: {url}: {why}")
        if name.stem != "404":
            found += _differences(page, path, site)
    for path in sorted(site.rglob("*.css")):
        found += [
            f"{path.relative_to(site)}: loads {(one or other).decode()}"
            for one, other in _CSS_URL.findall(path.read_bytes())
        ]
    return found


def is_elsewhere(url: str) -> bool:
    """Return whether a URL leads to another host."""
    return bool(urlsplit(url).netloc)


def _broken(url: str, path: Path, site: Path, pages: dict[Path, Page]) -> str:
    """Return why a link leads nowhere, "" if it leads somewhere or to elsewhere."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        good = (
            parts.scheme in ("http", "https") and parts.hostname and re.fullmatch(r"[\w.-]+", parts.hostname)
        )
        return "" if good and not re.search(r"\s", url) else "is no URL"
    base = site if parts.path.startswith("/") else path.parent
    target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    there = pages.get(target)
    return "" if not anchor or there is None or anchor in there.anchors else "there is no such anchor"


def _differences(page: Page, path: Path, site: Path) -> list[str]:
    """Return where a page is not what CommonMark makes of its source."""
    source = (DOCS / path.relative_to(site)).with_suffix(".md")
    if not source.exists():
        source = source.with_name("README.md")
    wanted = by_commonmark(source.read_text())
    return [
        f"{path.relative_to(site)}: {page.counts[tag]} of <{tag}>, where CommonMark has {wanted[tag]}"
        for tag in STRUCTURE
        if page.counts[tag] != wanted[tag]
    ]


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    site = Path(sys.argv[1]).resolve()
    found = faults_of(site)
    print("\n".join(found) or f"{site}: {len(list(site.rglob('*.html')))} pages, links and loads are right")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

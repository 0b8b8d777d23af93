"""figures.json, the page that is made of it, and the blocks of documents.

`python -m tests.bench.test_report` writes the golden files anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import docs, pages, report
from bench.errors import BenchError
from bench.questions import QUESTIONS
from bench.results import Results
from bench.run import MEASURED
from tests.bench.results import small_run
from tests.support import ROOT

GOLDEN = ROOT / "tests" / "bench" / "golden"


def page(results: Results) -> str:
    return pages.page(results, plots)


def plots(key: str) -> list[str]:
    return {"targets": ["ratios.svg"], "connections": ["connections-a.svg"]}.get(key, [])


def test_the_file_of_a_run() -> None:
    assert small_run().dumps() == (GOLDEN / "figures.json").read_text()


def test_the_page_of_a_run_is_made_from_its_file() -> None:
    assert page(Results.load(GOLDEN / "figures.json")) == (GOLDEN / "report.md").read_text()


def test_the_file_read_is_what_was_written() -> None:
    assert Results.load(GOLDEN / "figures.json") == small_run()


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "is not a figures.json"),
        ("[]", "is not a figures.json"),
        ("{}", "is not a figures.json"),
        ('{"format": 0}', "has format 0, not 1"),
        ('{"format": 1, "figures": [{}]}', "is not a figures.json"),
        ('{"format": 1, "figures": []}', "is not a figures.json"),
    ],
)
def test_other_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=reason):
        Results.load(path)


def test_every_scenario_answers_a_question() -> None:
    known = {name for question in QUESTIONS for name in question.scenarios}
    assert set(MEASURED) <= known


class TestSeveralRuns:
    def test_later_scenarios_take_the_place_of_earlier_ones(self) -> None:
        ours, later = small_run(), small_run()
        later.figures = [figure for figure in small_run().figures if figure.scenario == "S1"]
        later.failed = {"S2": "status 500"}
        ours.take(later)
        assert [it.scenario for it in ours.figures if not it.axis] == ["S3", "S4", "S9", "X1", "S1"]
        assert sorted(ours.failed) == ["S2", "S5"]
        assert [ours.loads[it["load"]] for it in ours.samples] == ["loadgen --path /v2/a|b"]
        assert "S1, S2: from 2026-01-02T03:04:05+00:00, `python -m bench.run short`" in ours.notes

    @pytest.mark.parametrize(
        "name, field, value",
        [
            ("CPU", "machine", {"CPU": "another", "kernel": "6.1"}),
            ("kernel", "machine", {"CPU": "Some CPU, 2 cores", "kernel": "6.2"}),
            ("OpenSSL", "versions", {"OpenSSL": "OpenSSL 3.5.9"}),
            ("workers", "workers", 2),
            ("subject", "subject", "squid"),
        ],
    )
    def test_other_machines_are_refused(self, name: str, field: str, value: object) -> None:
        other = small_run()
        setattr(other, field, value)
        with pytest.raises(BenchError, match=f"can't be one run: {name} is"):
            small_run().take(other)


class TestBlocks:
    TEXT = "a\n<!-- figures: hit -->\nold\n<!-- end of figures -->\nb\n"

    def test_a_block_is_replaced_and_nothing_else(self) -> None:
        new = docs.fill(self.TEXT, {"hit": lambda: "new"})
        assert new == "a\n<!-- figures: hit -->\n\nnew\n<!-- end of figures -->\nb\n"
        assert docs.fill(new, {"hit": lambda: "new"}) == new

    @pytest.mark.parametrize(
        "text, reason",
        [
            ("<!-- figures: nobody -->\n<!-- end of figures -->\n", "no such figures: nobody"),
            ("<!-- figures: hit -->\nno end", "has no end"),
            (f"<!-- figures: hit -->\n{TEXT}", "has no end"),
        ],
    )
    def test_wrong_blocks(self, text: str, reason: str) -> None:
        with pytest.raises(BenchError, match=reason):
            docs.fill(text, {"hit": lambda: "new"})

    def test_the_documents_have_every_block_once(self) -> None:
        there = [
            name for file in report.DOCUMENTS for name in docs.blocks((ROOT / "docs" / file).read_text())
        ]
        assert sorted(there) == sorted(report.makers(small_run(), {}))

    def test_every_question_is_a_heading_or_part_of_one(self) -> None:
        page = (ROOT / "docs" / "performance.md").read_text()
        merged = {"streams", "access"}  # under one heading
        assert [it.title for it in QUESTIONS if it.key not in merged and f"## {it.title}\n" not in page] == []

    def test_the_documents_are_written(self, tmp_path: Path) -> None:
        """Twice the same; the plots are those of this run alone."""
        (tmp_path / "performance").mkdir()
        (tmp_path / "performance" / "old.svg").touch()
        for name in report.DOCUMENTS:
            (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
        report.write_documents(small_run(), tmp_path)
        first = {path: path.read_text() for path in tmp_path.rglob("*.*")}
        assert "0.54 (0.5..0.58)" in first[tmp_path / "performance.md"]
        assert "**VOID**" in first[tmp_path / "performance.md"]
        assert tmp_path / "performance" / "old.svg" not in first
        report.write_documents(small_run(), tmp_path)
        assert {path: path.read_text() for path in tmp_path.rglob("*.*")} == first


def test_a_report_is_written_beside_its_file(tmp_path: Path) -> None:
    path = small_run().save(tmp_path)
    written = report.write(Results.load(path), tmp_path)
    assert {it.suffix for it in tmp_path.iterdir()} == {".json", ".md", ".svg"}
    links = [line for line in written.read_text().splitlines() if line.startswith("![")]
    assert len(links) == 3
    assert all((tmp_path / line.partition("](")[2][:-1]).exists() for line in links)


def main() -> None:
    """Write the golden files anew."""
    small_run().save(GOLDEN)
    (GOLDEN / "report.md").write_text(page(small_run()))


if __name__ == "__main__":
    main()

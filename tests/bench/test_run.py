"""Two runs in one directory would spoil each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from bench import run


def test_a_second_run_in_the_same_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run.hold(tmp_path / "work"):
        with pytest.raises(typer.Exit) as refused:
            run.hold(tmp_path / "work")
        assert refused.value.exit_code == 1
        run.hold(tmp_path / "other").close()
    run.hold(tmp_path / "work").close()
    assert "another run has its servers in" in capsys.readouterr().out

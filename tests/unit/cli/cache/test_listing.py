"""`regproxy cache` as a command: lists, sums, purges, layouts; text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regproxy.cli.cache.listing import Sort
from regproxy.core.sizes import size_text
from tests.support.cache_command import command
from tests.support.images import make_image, make_index, write_layout
from tests.support.stocked_cache import DAY, Stock
from tests.support.stocked_images import everything, put, size_of

ONE = make_image(size=2_000, seed=1)
MULTI = make_index(size=2_000, seed=4)
ARM = MULTI.images[1]


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        put(stock, "nginx:1", ONE, idle=9 * DAY)
        put(stock, "reg.test/app:1", MULTI, only=(MULTI.digest, *everything(ARM)))
        yield stock


def told(stock: Stock, *words: str, code: int = 0) -> Any:
    """Return the JSON document that a command prints."""
    done = command(stock.root, *words, "--json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def test_what_a_terminal_would_obey_is_escaped(stock: Stock, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"reg.test/\x1b]0;mine\x07:1": ONE})
    done = command(stock.root, "import", str(layout))
    assert done.returncode == 1
    assert r"reg.test/\x1b]0;mine\x07:1" in done.stderr
    assert done.stderr.replace("\n", "").isprintable()


def test_lists(stock: Stock) -> None:
    done = command(stock.root, "list")
    assert done.returncode == 0, done.stderr
    head, app, nginx = done.stdout.splitlines()
    assert head.split("  ")[0] == "IMAGE"
    assert nginx.split()[0] == "docker.io/library/nginx:1" and " all " in nginx
    assert size_text(size_of(ONE)) in nginx
    assert app.split()[0] == "reg.test/app:1" and "linux/arm64" in app and " all " not in app
    images = told(stock, "list", "--sort", Sort.USED)["images"]
    assert [each["name"] for each in images] == ["reg.test/app:1", "docker.io/library/nginx:1"]
    assert images[1]["content"]["size"] == size_of(ONE)
    old = told(stock, "list", "--older-than", "7d", "-n", "1")["images"]
    assert [each["digest"] for each in old] == [ONE.digest]
    assert told(stock, "list", "nothing")["images"] == []
    blobs = told(stock, "list", "--blobs", "--sort", "size", "--reverse")["blobs"]
    sizes = [each["size"] for each in blobs]
    assert sizes == sorted(sizes) and len(sizes) == len(stock.files())
    for words in (["--blobs", "nginx"], ["--older-than", "soon"], ["--registry", "a b"], ["--sort", "x"]):
        assert command(stock.root, "list", *words).returncode == 2, words


def test_sums_and_details(stock: Stock) -> None:
    found = told(stock, "du")
    assert {each["registry"] for each in found["registries"]} == {"docker.io", "reg.test"}
    assert found["totals"]["bytes"] == sum(each["bytes"] for each in found["registries"])
    assert command(stock.root, "du", "-s").stdout.splitlines()[-1].endswith("on disk")
    shown = command(stock.root, "show", "reg.test/app:1")
    assert shown.returncode == 0, shown.stderr
    assert f"{ARM.digest}" in shown.stdout and "missing" in shown.stdout and "linux/arm64" in shown.stdout
    assert told(stock, "show", ONE.layers[0])["use"]["images"] == ["docker.io/library/nginx:1"]
    gone = command(stock.root, "show", "reg.test/app:2")
    assert (gone.returncode, gone.stdout) == (1, "") and "is not in the cache" in gone.stderr
    status = told(stock, "status")
    assert (status["objects"], status["max_bytes"]) == (len(stock.files()), 32 << 30)
    assert status["free_floor_bytes"] > 0 and status["free_bytes"] > 0 and status["oldest_use"]


def test_a_purge_wants_to_be_meant(stock: Stock) -> None:
    before = stock.files()
    for words in (["nginx:1"], [], ["--yes"], ["NGINX", "--yes"]):
        done = command(stock.root, "purge", *words)
        assert done.returncode == 2, (words, done)
    for words in ([], ["--yes"]):
        assert "nothing is selected" in command(stock.root, "purge", *words).stderr
    dry = told(stock, "purge", "--older-than", "7d", "--dry-run")
    assert (dry["dry_run"], dry["images"]) == (True, ["docker.io/library/nginx:1"])
    assert stock.files() == before
    done = command(stock.root, "purge", "nginx:1", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "removed docker.io/library/nginx:1"
    assert stock.files() == before - everything(ONE)


def test_a_purge_of_what_is_not_there(stock: Stock) -> None:
    """A port that was forgotten is nothing that was removed."""
    put(stock, "nas.lan:5000/team/app:1", ONE)
    before = stock.files()
    for words in (["nas.lan/team/app:1"], ["nas.lan/team/app:1", "--dry-run"], ["--repository", "none"]):
        done = command(stock.root, "purge", "--yes", *words)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith("regproxy: nothing in the cache matches")
        assert ("; nas.lan:5000/team/app is there" in done.stderr) is ("nas.lan/team/app:1" in words)
    assert told(stock, "purge", "nas.lan/team/app:1", "--yes", code=1)["tags"] == 0
    # Nothing to do is no fault of a job that runs each night.
    assert told(stock, "purge", "--older-than", "300d", "--yes")["tags"] == 0
    assert stock.files() == before


def test_pins_as_json(stock: Stock) -> None:
    (pinned,) = told(stock, "pin", "nginx:1")["pinned"]
    assert (pinned["name"], pinned["held"]) == ("docker.io/library/nginx:1", len(everything(ONE)))
    assert told(stock, "pins")["pins"] == [pinned]
    kept = told(stock, "purge", "nginx:1", "--yes")["kept"]
    assert {"name": "docker.io/library/nginx:1", "why": "pinned"} in kept
    assert told(stock, "unpin", "nginx:1") == {"unpinned": ["docker.io/library/nginx:1"]}
    assert told(stock, "unpin", "nginx:1", code=1) == {"unpinned": []}
    assert told(stock, "verify")["wrong"] == 0


def test_out_and_in(stock: Stock, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    done = command(stock.root, "export", str(archive), "nginx:1", "reg.test/app:1")
    assert done.returncode == 0, done.stderr
    before = archive.read_bytes()
    again = command(stock.root, "export", str(archive), "nginx:1")
    assert (again.returncode, archive.read_bytes() == before) == (2, True)
    assert "--overwrite replaces it" in again.stderr
    assert command(stock.root, "export", str(archive), "nginx:1", "--overwrite").returncode == 0
    assert archive.read_bytes() != before
    archive.write_bytes(before)
    with Stock(tmp_path / "other") as other:
        found = told(other, "import", str(archive))
        assert [each["error"] for each in found["images"]] == ["", ""]
        assert other.files() == stock.files()
    bad = command(stock.root, "export", str(tmp_path / "x.tar"), "nginx:1", "nginx:2")
    assert bad.returncode == 1 and "nginx:2 is not in the cache" in bad.stderr
    assert not (tmp_path / "x.tar").exists()
    everything_of = told(stock, "export", str(tmp_path / "layout"), "--registry", "docker.io")
    assert [each["name"] for each in everything_of["images"]] == ["docker.io/library/nginx:1"]
    assert command(stock.root, "import", str(tmp_path / "nowhere")).returncode == 2
    assert command(stock.root, "export", "x.tar").returncode == 2

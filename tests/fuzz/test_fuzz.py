"""Each target on its corpus and some thousand inputs made of it: a short run of `python -m tests.fuzz`."""

from __future__ import annotations

import fcntl
import random
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.build import BUILD, build
from tests.fuzz.python_targets import TARGETS
from tests.fuzz.targets import IN_C, IN_PYTHON, command, environment
from tests.support import ROOT

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
RUNS = 3000
# A file is written and opened for each.
SLOW = {"index_file": 40, "configuration": 300}


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def changed(data: bytes, chance: random.Random) -> bytes:
    """A copy with a few bytes changed, left out, or repeated."""
    copy = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(copy) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            copy[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del copy[at : at + chance.randrange(1, 9)]
        elif kind == 2:
            copy[at:at] = copy[at : at + chance.randrange(1, 9)]
        else:
            copy[at:at] = chance.choice([b"\r\n", b"\n", b'"', b",", b"0", b"\xff", b"\0"])
    return bytes(copy)


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {*IN_C, *IN_PYTHON}
    assert set(TARGETS) == set(IN_PYTHON)


@pytest.mark.parametrize("name", IN_PYTHON)
def test_in_python(name: str) -> None:
    chance, found = random.Random(name), seeds(name)
    for data in found:
        TARGETS[name](data)
    for _ in range(SLOW.get(name, RUNS)):
        TARGETS[name](changed(chance.choice(found), chance))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", IN_C)
def test_in_the_data_plane(name: str, tmp_path: Path) -> None:
    """With ASan and UBSan. What there is to build is built by the first of those that want it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build()
        env = environment(name)
    options = [f"-runs={RUNS}", "-seed=1", "-max_len=300", f"-artifact_prefix={tmp_path}/", str(tmp_path)]
    call = [*command(name), *options, str(CORPUS / name)]
    done = subprocess.run(call, env=env, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-3000:]

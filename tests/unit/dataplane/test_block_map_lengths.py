"""Lengths that are given to a block map: refused, or held to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from regproxy.cache.parts import MAPPED_MAX
from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from tests.support.sanitized import SANITIZED
from tests.support.scattered_growths import TOTAL

MAX = 2**63 - 1


class TestExtents:
    """Offsets that are none of the content's, and contents of any length."""

    @pytest.mark.parametrize("offset", [-(2**63), -1, TOTAL, TOTAL + 1, TOTAL + 5 * BLOCK_SIZE, MAX])
    def test_out_of_it(self, offset: int) -> None:
        extents = Extents(TOTAL)
        extents.start(1, 2, TOTAL)
        assert extents.end(offset) == offset
        assert extents.hole(offset) == (offset, TOTAL)

    @pytest.mark.parametrize("total", [1, BLOCK_SIZE, BLOCK_SIZE + 1, MAPPED_MAX])
    def test_the_end_of(self, total: int) -> None:
        assert Extents(total).hole(total - 1) == (total - 1, total)

    @pytest.mark.skipif(SANITIZED, reason="AddressSanitizer needs more address space than this leaves")
    def test_a_length_that_no_memory_has_a_map_for(self) -> None:
        """All that 63 bits hold: a map of 16 TiB."""
        code = (
            "import resource; from regproxy.dataplane.block_map import Extents\n"
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
            "try: Extents(2**63 - 1)\n"
            "except MemoryError: print('none')"
        )
        assert python(code) == "none\n"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout

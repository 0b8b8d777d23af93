"""Counts in C integers."""

from __future__ import annotations

from regproxy.dataplane.tally import Use


def test_a_use_is_taken_once() -> None:
    use = Use()
    assert use.take() is None
    use.add(1, 100, 0)
    use.add(2, 50, 50)
    assert (use.times, use.sent, use.saved) == (3, 150, 50)
    assert use.take() == (3, 150, 50)
    assert use.take() is None


def test_bytes_beyond_32_bits() -> None:
    use = Use()
    for _ in range(3):
        use.add(2**40, 2**60, 2**60)
    assert use.take() == (3 * 2**40, 3 * 2**60, 3 * 2**60)

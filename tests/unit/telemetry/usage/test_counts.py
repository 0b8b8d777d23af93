"""Uses of many names, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from regproxy.telemetry.usage.counts import Uses, add, most


def test_counts_since_the_last_time() -> None:
    uses: Uses[str] = Uses()
    uses.of("a").add(1, 100, 60)
    uses.of("a").add(2, 10, 0)
    uses.of("b")
    assert uses.take() == {"a": (3, 110, 60)}
    assert uses.take() == {}
    uses.of("a").add(1, 5, 5)
    assert uses.take() == {"a": (1, 5, 5)}


def test_names_without_news_are_forgotten_unless_somebody_holds_them() -> None:
    uses: Uses[int] = Uses()
    held = uses.of(1)
    uses.of(2)
    uses.take()
    assert len(uses) == 1
    held.add(1, 7, 0)  # as a connection does that was idle for long
    assert uses.take() == {1: (1, 7, 0)}
    del held
    uses.take()
    assert len(uses) == 0


def test_made_up_names_do_not_displace_what_is_used() -> None:
    uses: Uses[str] = Uses(limit=100)
    largest = 0
    for number in range(100_000):
        uses.of(f"made up {number}").add(1, 0, 0)
        if number % 50 == 0:
            uses.of("real").add(1, 0, 0)
        largest = max(largest, len(uses))
    taken = uses.take()
    assert largest <= 200
    assert len(taken) <= 100
    assert taken["real"] == (2000, 0, 0)


def test_held_names_stay_in_a_flood() -> None:
    uses: Uses[int] = Uses(limit=10)
    held = [uses.of(number) for number in range(100)]
    for number in range(100, 5000):
        uses.of(number).add(1, 0, 0)
        assert len(uses) <= 130
    for use in held:
        use.add(9, 0, 0)
    assert set(uses.take()) <= set(range(100))


COUNTS = st.dictionaries(
    st.integers(0, 30), st.tuples(st.integers(1, 5), st.integers(0, 9), st.integers(0, 9))
)


@given(counts=COUNTS, limit=st.integers(0, 40))
def test_most(counts: dict[int, tuple[int, int, int]], limit: int) -> None:
    kept = most(counts, limit)
    assert len(kept) == min(limit, len(counts))
    assert kept.items() <= counts.items()
    left = [times for name, (times, _, _) in counts.items() if name not in kept]
    assert all(times >= max(left, default=0) for times, _, _ in kept.values())


def test_among_equals_the_latest_are_kept() -> None:
    assert set(most(dict.fromkeys("abc", (1, 0, 0)), 2)) == {"b", "c"}


@given(one=COUNTS, other=COUNTS)
def test_add(one: dict[int, tuple[int, int, int]], other: dict[int, tuple[int, int, int]]) -> None:
    both = dict(one)
    add(both, other.items())
    for column in range(3):
        total = sum(each[column] for counts in (one, other) for each in counts.values())
        assert sum(each[column] for each in both.values()) == total

"""The last failure of each registry."""

from __future__ import annotations

from regproxy.upstream.failures import MESSAGE_MAX, REGISTRIES_MAX, Failures


def test_the_last_one_and_how_many() -> None:
    failures = Failures(lambda: 7.0)
    failures.note("a", "first")
    failures.note("b", "other")
    failures.note("a", "second")
    assert [(each.registry, each.count, each.at, each.message) for each in failures.known()] == [
        ("b", 1, 7.0, "other"),
        ("a", 2, 7.0, "second"),
    ]


def test_no_query_is_kept() -> None:
    failures = Failures()
    failures.note("a", "https://cdn.test/blob?X-Signature=secret&b=c: broke (as https://x/?token=secret)")
    (kept,) = failures.known()
    assert "secret" not in kept.message
    assert "cdn.test/blob?..." in kept.message


def test_bounds() -> None:
    failures = Failures()
    for number in range(REGISTRIES_MAX + 5):
        failures.note(f"reg{number}", "x" * 10_000)
    assert len(failures.known()) == REGISTRIES_MAX
    assert failures.known()[0].registry == "reg5"
    assert len(failures.known()[0].message) == MESSAGE_MAX

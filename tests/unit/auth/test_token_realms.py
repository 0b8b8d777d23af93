"""Where registries say that their tokens come from: shared by a file, bounded, no trouble when it is one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.auth.token_realms import (
    FAILED_SECONDS,
    OF_ONE_MAX,
    REALMS_MAX,
    SURE_SECONDS,
    NamedRealm,
    Realms,
    bounded,
    decode,
    encode,
)
from regproxy.http.origin import Origin
from regproxy.registry.token_protocol import Realm
from tests.support.login_helpers import Clock

AUTH = Origin("https", "auth.test", 443)


def named(number: int, registry: int = 0) -> NamedRealm:
    return NamedRealm(Origin("https", f"reg{registry}.test", 443), Realm(AUTH, f"/token{number}?a=b", "svc"))


def test_what_one_learns_the_others_find(tmp_path: Path) -> None:
    async def test() -> None:
        one, other = Realms(tmp_path / "state" / "realms.json"), Realms(tmp_path / "state" / "realms.json")
        await one.learn(named(1))
        assert other.at(AUTH, "/token1") == []
        await other.look()
        assert other.at(AUTH, "/token1") == [named(1)]
        assert other.at(AUTH, "/token") == other.at(Origin("https", "auth.test", 444), "/token1") == []
        await other.learn(named(2, 1))
        await one.look()
        assert one.at(AUTH, "/token2") == [named(2, 1)]

    asyncio.run(test())


def test_many_write_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        asyncio.run(Realms(tmp_path / "realms.json").learn(named(number, number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))
    assert set(decode((tmp_path / "realms.json").read_bytes())) == {named(n, n) for n in range(16)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["realms.json", "realms.json.lock"]


def test_it_is_written_again_where_it_was_deleted(tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        realms = Realms(tmp_path / "realms.json", clock)
        await realms.learn(named(1))
        (tmp_path / "realms.json").unlink()
        await realms.learn(named(1))
        assert realms.knows(named(1)) and not (tmp_path / "realms.json").exists()
        clock.now += SURE_SECONDS
        await realms.learn(named(1))
        assert decode((tmp_path / "realms.json").read_bytes()) == [named(1)]

    asyncio.run(test())


def test_a_disk_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")

    async def test() -> None:
        clock = Clock()
        realms = Realms(tmp_path / "state" / "realms.json", clock)
        for number in range(3):
            await realms.learn(named(number))
            assert realms.at(AUTH, f"/token{number}") == [named(number)]
        assert realms.knows(named(0))
        clock.now += FAILED_SECONDS
        assert not realms.knows(named(0))
        await realms.look()

    asyncio.run(test())
    assert len([record for record in caplog.records if "can't be written" in record.message]) == 1


def test_bounds() -> None:
    one = bounded(named(n) for n in range(100))
    assert list(one) == [named(n) for n in range(100 - OF_ONE_MAX, 100)]
    many = [named(1, n) for n in range(REALMS_MAX + 50)]
    # Whoever names many takes the place of its own alone.
    assert list(bounded([*many, *(named(n) for n in range(2, 100))]))[-OF_ONE_MAX:] == list(one)
    assert len(bounded(many)) == REALMS_MAX
    assert list(bounded([named(1), named(2), named(1)])) == [named(2), named(1)]


@given(
    st.binary(max_size=80) | st.sampled_from([b"[]", b"{}", b'{"version":1,"realms":[[1],null,[[],[],1,1]]}'])
)
def test_what_can_not_be_understood_says_nothing(text: bytes) -> None:
    assert decode(text) == []


def test_there_and_back() -> None:
    all_of_it = [named(n, n) for n in range(5)]
    assert decode(encode(all_of_it)) == all_of_it

"""Hashing beside the loop: by few threads, with a short queue, and in the same way for those who do not exist."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator

import argon2
import pytest
import pytest_asyncio

from realtime.auth import passwords as module
from realtime.auth.passwords import THREADS, WAITING, Passwords, check_password
from realtime.embedded import Embedded
from realtime.errors import Refused, Unauthorized, Unavailable
from tests.auth.people import EMAIL, HERE, PASSWORD, opened
from tests.stores.pg import Database, database
from tests.wait import until

pytestmark = pytest.mark.asyncio


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


@pytest_asyncio.fixture
async def db(servers: Embedded) -> AsyncGenerator[Database, None]:
    async with database(servers.urls["postgres"]) as made:
        yield made


class Hashed(list[str]):
    """The hashes that were computed, each in a thread that is ours; `go` lets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        inner = argon2.PasswordHasher.verify

        def verify(hasher: argon2.PasswordHasher, hashed: str, password: bytes) -> bool:
            self.go.wait(10)
            self.append(hashed)
            assert threading.current_thread().name.startswith("passwords")
            return inner(hasher, hashed, password)

        monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)


async def test_a_password_is_known_by_its_hash(passwords: Passwords) -> None:
    hashed = await passwords.hash(PASSWORD)
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(hashed, PASSWORD)
    assert not await passwords.verify(hashed, PASSWORD + " ")
    assert not await passwords.verify("what is no hash", PASSWORD)
    assert not await passwords.verify(None, PASSWORD)
    assert await passwords.hash(PASSWORD) != hashed


async def test_how_long_a_password_is() -> None:
    for password in ("x" * 7, "x" * 257):
        with pytest.raises(Refused, match=str(len(password))):
            check_password(password)
    check_password("x" * 8)
    check_password("ä" * 256)


async def test_a_very_long_one_is_not_hashed(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = Hashed(monkeypatch)
    assert not await passwords.verify(await passwords.hash(PASSWORD), "x" * 257)
    assert hashed == []


async def test_the_same_is_computed_for_who_has_no_account(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Hashed(monkeypatch)
    assert not await passwords.verify(None, PASSWORD)
    [nobodys] = hashed
    assert argon2.extract_parameters(nobodys) == argon2.extract_parameters(await passwords.hash(PASSWORD))


async def test_at_most_eight_wait_and_who_gives_up_leaves_no_place(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Hashed(monkeypatch)
    hashed.go.clear()
    waiting = [asyncio.create_task(passwords.verify(None, PASSWORD)) for _ in range(THREADS + WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await passwords.verify(None, PASSWORD)
    waiting[0].cancel()  # its thread goes on
    await asyncio.wait(waiting[:1])
    with pytest.raises(Unavailable):
        await passwords.verify(None, PASSWORD)
    waiting[-1].cancel()  # this one has not begun
    await asyncio.wait(waiting[-1:])
    last = asyncio.create_task(passwords.verify(None, PASSWORD))
    hashed.go.set()
    assert await asyncio.gather(*waiting[1:-1], last) == [False] * (THREADS + WAITING - 1)
    assert len(hashed) == THREADS + WAITING


async def test_the_loop_turns_while_fifty_sign_in(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the queue are turned away; what is hashed is hashed elsewhere, and the loop does not wait for it."""
    async with opened(db.url) as accounts:
        await accounts.add(EMAIL, "", PASSWORD, [])
        hashed = Hashed(monkeypatch)
        hashed.go.clear()
        tries = [asyncio.create_task(accounts.sign_in(EMAIL, PASSWORD, f"192.0.2.{number}")) for number in range(50)]
        await until(lambda: sum(each.done() for each in tries) == 50 - THREADS - WAITING)
        for _ in range(1000):  # turns, with both threads busy
            await asyncio.sleep(0)
        assert hashed == []
        hashed.go.set()
        ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, Unavailable) for each in ends) == 50 - THREADS - WAITING
    assert sum(isinstance(each, tuple) for each in ends) == len(hashed) == THREADS + WAITING


async def test_signing_in_hashes_again_what_was_hashed_with_other_numbers(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(db.url) as accounts:
        await accounts.add(EMAIL, "", None, [])
        weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
        await db.sql.execute("UPDATE _realtime.users SET password = $1", weak)
        with pytest.raises(Unauthorized):
            await accounts.sign_in(EMAIL, "wrong horse", HERE)
        assert await db.sql.fetchval("SELECT password FROM _realtime.users") == weak
        secret, _ = await accounts.sign_in(EMAIL, PASSWORD, HERE)
        strong = await db.sql.fetchval("SELECT password FROM _realtime.users")
        assert strong.startswith(f"$argon2id$v=19$m={module.MEMORY},t=2,p=1$")
        await accounts.signed_in(secret)
        await accounts.sign_in(EMAIL, PASSWORD, HERE)
        assert await db.sql.fetchval("SELECT password FROM _realtime.users") == strong

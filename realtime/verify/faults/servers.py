"""A server of ours that ends by a signal, and comes back on its data: what each kind of server has to get over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from signal import Signals
from typing import TYPE_CHECKING

from .base import Strike

if TYPE_CHECKING:
    from ..stage import Stage


@asynccontextmanager
async def down(
    stage: Stage, name: str, how: Signals = Signals.SIGKILL, words: Sequence[str] = ()
) -> AsyncIterator[None]:
    """It is away for a while; `words` are further ones for the command line with which it comes back."""
    try:
        await stage.kill_server(name, how)
        yield
    finally:
        await stage.start_server(name, words)


async def restart(stage: Stage, name: str, how: Signals, words: Sequence[str] = ()) -> None:
    async with down(stage, name, how, words):
        pass


def ended(name: str, how: Signals) -> Strike:
    @asynccontextmanager
    async def strike(stage: Stage, dice: Random) -> AsyncIterator[None]:
        async with down(stage, name, how):
            yield

    return strike

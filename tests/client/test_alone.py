"""The client is importable, and of use, where none of the server's libraries is."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tests.client.conftest import Node

pytestmark = pytest.mark.asyncio

SERVERS = ("tornado", "redis", "motor", "pymongo", "asyncpg", "psycopg", "argon2", "jwt", "structlog")
PROGRAM = f"""
import sys

sys.modules.update(dict.fromkeys({SERVERS}))  # importing one of them is an ImportError

from realtime.client import connect_sync

with connect_sync(sys.argv[1]) as live:
    live.put("memory/rooms", "attic", 1, wait=True)
    print(next(live.watch("memory/rooms")).items)
"""


async def test_no_library_of_the_server_is_needed(node: Node) -> None:
    command = [sys.executable, "-c", PROGRAM, node.address]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "{'attic': 1}\n"), done.stderr

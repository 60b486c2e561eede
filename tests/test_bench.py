"""Each measurement runs to its end, on next to nothing, and says what it promises. No number is looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import PROGRAMS

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the clients are in C, and there is no compiler")

ROOT = Path(__file__).parent.parent
AT_A_TIME = 3  # most of what they do is wait

SMALL = {
    "fanout": "--sessions 5 --seconds 0.2 --rounds 1",
    "connections": "--sessions 5 --seconds 0.5 --listeners 2",
    "storm": "--sessions 5 --missed 3",
    "capture": "--changes 20",
    "latency": "--writes 3 --sessions 5 --rates 50 --seconds 0.3",
    "writes": "--seconds 0.2 --rounds 1",
    "growth": "--others 3 --events 10 --rest 0.2",
}

TABLES = {
    "fanout": {"fanout": "name burst deliveries_per_second of_limit of_limit_by_cpu receivers_cpu skipped wrong"},
    "connections": {
        "idle": "sessions live kib_per_session seconds_until_all_live",
        "stalled": "seconds deliveries rss_mib open conflated cut",
    },
    "storm": {"storm": "sessions live seconds_until_all_live resumed store_reads history_reads"},
    "capture": {"capture": "channel writes changes heard_per_second behind_seconds lost"},
    "latency": {
        "one_by_one": "store write client p50_ms p95_ms p99_ms",
        "loaded": "store client written_per_second heard_per_second p50_ms p95_ms p99_ms",
    },
    "writes": {"writes": "store by writes_per_second of_handler of_store writers_cpu"},
    "growth": {"growth": "elsewhere number event_us subscribe_and_leave_us idle_cpu"},
}

Done = subprocess.CompletedProcess[str]


def run(*words: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture(scope="module")
def done() -> Iterator[Mapping[str, Future[Done]]]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(run, f"bench.{name}", *SMALL[name].split(), "--json") for name in PROGRAMS}


@pytest.mark.parametrize("name", PROGRAMS)
def test_says_what_it_promises(name: str, done: Mapping[str, Future[Done]]) -> None:
    result = done[name].result()
    assert result.returncode == 0, result.stderr
    tables: dict[str, list[dict[str, Any]]] = json.loads(result.stdout)
    assert tables.keys() == TABLES[name].keys()
    for table, columns in TABLES[name].items():
        assert tables[table], table
        for row in tables[table]:
            assert set(columns.split()) <= row.keys()


def test_nothing_is_lost_on_the_way(done: Mapping[str, Future[Done]]) -> None:
    """A rate means nothing where some of it did not arrive, or in another order."""
    for row in json.loads(done["fanout"].result().stdout)["fanout"]:
        assert (row["skipped"], row["wrong"], row["closed"]) == (0, 0, 0), row
    for row in json.loads(done["capture"].result().stdout)["capture"]:
        assert row["lost"] == 0, row


def test_lists_what_there_is() -> None:
    lines = run("bench").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(PROGRAMS)

"""`realtime verify` as its users run it, and one minute of it on a schedule that is another each time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realtime.errors import StartError
from realtime.verify.command import Options, verify
from realtime.verify.report import summary
from tests.process import data_directory, environment, served

REALTIME = (sys.executable, "-m", "realtime")


def run(*options: str, seconds: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*REALTIME, "verify", *options], env=environment(**more), capture_output=True, text=True, timeout=seconds
    )


@pytest.mark.asyncio
@pytest.mark.expects_logs
@pytest.mark.timeout(240)
async def test_a_minute_of_faults_breaks_no_promise() -> None:
    seed = int.from_bytes(os.urandom(2))
    report = await verify(Options(seconds=60), seed, asyncio.Event())
    print(summary(report))
    # Not those of time: how quick it is, this machine may be to blame for.
    assert [each for each in report.violations if each.invariant != "time"] == [], summary(report)
    assert report.rounds
    heard = report.counts["heard"]
    assert all(heard[what] > 0 for what in ("event", "resume", "snapshot"))
    assert set(report.counts["conversations"]) == {"ws-json", "ws-msgpack", "sse", "ndjson", "poll"}


def test_faults_are_listed_and_a_wrong_name_is_put_right() -> None:
    listed = run("--list")
    assert listed.returncode == 0
    assert "redis-kill" in listed.stdout
    wrong = run("--fault", "redis-kil")
    assert wrong.returncode == 78
    assert wrong.stderr.strip() == "no fault 'redis-kil'; did you mean redis-kill? (--list has all)"


def test_a_seed_is_a_number_or_a_range() -> None:
    wrong = run("--seed", "5..1")
    assert wrong.returncode == 2
    assert "'5..1' is neither a number nor a range like 1..5" in wrong.stderr


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("nonsense", 78, "--at 'nonsense' is not an address like http://127.0.0.1:8888"),
        ("http://127.0.0.1:1", 1, "realtime: not ready after 5 s: http://127.0.0.1:1: [Errno 111] Connection refused"),
    ],
)
def test_where_no_node_is(address: str, status: int, words: str) -> None:
    wrong = run("--at", address)
    assert (wrong.returncode, wrong.stderr.strip()) == (status, words)


def test_a_cluster_that_runs_already_keeps_what_it_had() -> None:
    with data_directory() as data, served(data) as service:
        address = service.address()
        urls = json.loads((data / "urls").read_text())
        addresses = {"DATABASE_URL": urls["postgres"], "REDIS_URL": urls["redis"], "MONGODB_URI": urls["mongo"]}
        done = run("--at", address, "--minutes", "0.1", "--seed", "7", "--json", **addresses)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["seed"], report["violations"]) == (7, [])
        assert "as it needs nodes" in report["skipped"]["node-kill"]
        end = time.monotonic() + 10  # what there is is looked at every other second
        while left := [name for name in collections(address) if name.startswith("verify_")]:
            assert time.monotonic() < end, left
        alone = run("--at", address, "--minutes", "0.05", "--seed", "7", "--json")
        assert alone.returncode == 0, alone.stderr
        assert {each["fault"] for each in json.loads(alone.stdout)["rounds"]} == {"calm"}
        [emptied] = re.findall(r"(mongo/verify_\S+) was emptied", alone.stderr)
        page = json.loads(subprocess.check_output(["curl", "-s", f"{address}/v1/{emptied}"]))
        assert page["items"] == {}


def collections(address: str) -> list[str]:
    stores = json.loads(subprocess.check_output(["curl", "-s", f"{address}/v1/stores"]))["stores"]
    return [name for store in stores.values() for name in store["collections"]]


def test_another_redis_than_the_cluster_has() -> None:
    with data_directory() as data, served(data) as service:
        address = service.address()
        url = f"{json.loads((data / 'urls').read_text())['redis']}?db=1"
        wrong = run("--at", address, REDIS_URL=url)
        assert wrong.returncode == 1
        last = wrong.stderr.strip().splitlines()[-1]
        assert re.fullmatch(
            r"realtime: REDIS_URL is not where the nodes have theirs: what they write to redis/verify_\w+ is not there",
            last,
        )


def test_the_logs_of_what_does_not_start_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    program = (sys.executable, "-c", "raise SystemExit('no such luck')")
    with pytest.raises(StartError, match="no such luck"):
        asyncio.run(verify(Options(seconds=1, nodes=1, program=program), 1, asyncio.Event()))
    [data] = re.findall(r"the logs of nodes and servers are in (\S+)", capsys.readouterr().err)
    assert "no such luck" in Path(data, "node-1.log").read_text()
    shutil.rmtree(data)


def test_it_is_stopped_while_it_starts() -> None:
    with data_directory() as path, stopping(path) as process:
        assert process.stderr is not None
        assert "starting PostgreSQL" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert said.splitlines()[-1] == "realtime: stopped before anything was verified"
        assert list(path.iterdir()) == []


@contextmanager
def stopping(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has its files in `path`, and what there is of it afterwards is gone."""
    path.chmod(0o711)  # PostgreSQL, which is another user where we are root, has to pass
    yield subprocess.Popen(
        [*REALTIME, "verify", "--fault", "pubsub-kill", "--nodes", "2"],
        env=environment(TMPDIR=str(path)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 20
    while left := [pid for pid in os.listdir("/proc") if pid.isdigit() and str(path) in _environment(pid)]:
        assert time.monotonic() < end, f"processes {left} are left"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_one_that_was_stopped(number: signal.Signals) -> None:
    with data_directory() as path, stopping(path) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "all right" in line or "Error" in line)
        assert "all right" in said
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 0, said
            assert "0 violations" in out
            assert list(path.iterdir()) == []


def _environment(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""

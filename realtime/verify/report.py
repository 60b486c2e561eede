"""What a run came to: a table for people, JSON for programs, and the first broken promise with what led to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from .checker import Violation


class Round(Struct):
    """One fault, struck once. Seconds: `healed` from its lifting (or the last write) until every client was right and
    live, a write to each channel answered, and heard by all; None where that never came. `takeover`: the longest time
    that a feed's holder was dead or frozen."""

    fault: str
    writing: bool  # writes went on; else they stopped at the fault
    idle: str = ""  # why there was nothing to strike
    healed: float | None = None
    takeover: float | None = None
    violations: int = 0


class Report(Struct):
    """`counts`: what the writers wrote, the clients heard and the nodes counted; `skipped`: fault -> why."""

    seed: int
    seconds: float = 0.0
    nodes: int = 0
    clients: int = 0
    rounds: list[Round] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    memory: int = 0  # MiB, the most that a node had
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def never(self) -> dict[str, str]:
        """The faults that were due and never struck -> why."""
        struck = {each.fault for each in self.rounds if not each.idle}
        return {each.fault: f"as {each.idle}" for each in self.rounds if each.fault not in struck}


def summary(report: Report) -> str:
    head = f"seed {report.seed}: {len(report.rounds)} rounds in {report.seconds:.0f} s"
    if report.nodes:
        head += f", {report.nodes} nodes (at most {report.memory} MiB each)"
    return "\n".join(
        [
            *_table(report.rounds),
            "",
            f"{head}, {report.clients} clients",
            *(f"  {what}: {_listed(counts)}" for what, counts in report.counts.items()),
            *_listing("skipped", report.skipped),
            *_listing("never struck", report.never),
            *_verdict(report.violations),
        ]
    )


def _table(rounds: Sequence[Round]) -> Iterator[str]:
    yield f"{'fault':<24}{'struck':>7}{'healed after':>15}{'takeover after':>17}{'violations':>12}"
    for name in dict.fromkeys(each.fault for each in rounds):
        mine = [each for each in rounds if each.fault == name and not each.idle]
        healed = _worst([each.healed for each in mine])
        takeover = _worst([each.takeover for each in mine if each.takeover is not None])
        yield f"{name:<24}{len(mine):>7}{healed:>15}{takeover:>17}{sum(each.violations for each in mine):>12}"


def _worst(seconds: Sequence[float | None]) -> str:
    """At most so long."""
    known = [each for each in seconds if each is not None]
    if len(known) < len(seconds):
        return "never"
    return f"{max(known):.1f} s" if known else ""


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _listing(what: str, faults: dict[str, str]) -> Iterator[str]:
    for why in dict.fromkeys(faults.values()):
        yield f"  {what}, {why}: {', '.join(name for name in faults if faults[name] == why)}"


def _verdict(violations: Sequence[Violation]) -> Iterator[str]:
    if not violations:
        yield "0 violations"
        return
    first = violations[0]
    yield f"{len(violations)} violations; the first, of {first.invariant}:"
    yield f"  {first.client} on {first.channel}: {first.text}" if first.client else f"  {first.text}"
    yield from (f"    {line}" for line in first.history)

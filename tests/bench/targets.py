"""The targets of a run: what was wanted, what came out, and whether that is enough."""

from collections.abc import Sequence
from statistics import median

import msgspec

from tests.bench.figures import Results, database_middle, middle, rates, ratios
from tests.bench.operations import OPERATIONS, READS, SAID, Operation

DATABASE_CPU: dict[Operation, int] = {"create": 300, "append": 300, "turn": 450}
"""What a write may cost PostgreSQL, in microseconds."""
MESSAGE_BYTES = 200
"""Of the message whose disk is bounded: it is measured with a shorter one, and what it lacks is added."""


class Target(msgspec.Struct, frozen=True):
    """A line of design's targets: what was wanted, what came out, whether that is enough."""

    text: str
    found: str
    reached: bool


def targets(results: Results) -> list[Target]:
    """Each target that this run has figures for."""
    found: list[Target] = []
    writes: list[Operation] = [operation for operation in OPERATIONS if operation not in READS]
    bounds: list[tuple[str, Sequence[Operation], float]] = [
        ("fastapi", READS, 8),
        ("fastapi", writes, 4),
        ("postgrest", READS, 2.5),
        ("postgrest", writes, 1.5),
        ("fastify", list(OPERATIONS), 1.2),
    ]
    for name, operations, bound in bounds:
        if name in results.contenders:
            kind = {len(OPERATIONS): "every operation"}.get(
                len(operations), "reads" if operations == READS else "writes"
            )
            lowest = min((median(ratios(results, name, operation)), operation) for operation in operations)
            text = f"against {results.contenders[name]}, {kind}: ≥ {bound:g}×"
            found.append(Target(text, f"{lowest[0]:.2f}× ({OPERATIONS[lowest[1]]})", lowest[0] >= bound))
    if "litestar" in results.contenders:
        share = median(ratios(results, "litestar", "get"))
        found.append(Target("against a bare Litestar handler, a get: ≥ 55 %", f"{share:.0%}", share >= 0.55))
    counted = results.wire.get("todochat", {})
    if counted:
        most = max((each.round_trips, each.transactions) for each in counted.values())
        found.append(
            Target("round trips and transactions a request: 1 and 1", f"{most[0]} and {most[1]}", most == (1, 1))
        )
    if results.database:
        found += _database_targets(results)
    if results.many_samples:
        for kind, operations, bound in (("reads", READS, 40), ("writes", writes, 80)):
            most = max(
                (middle(results.many_samples, "todochat", operation, lambda s: s.p99), operation)
                for operation in operations
            )
            text = f"p99 at {results.many} connections, {kind}: ≤ {bound} ms"
            found.append(Target(text, f"{most[0]:.1f} ms ({OPERATIONS[most[1]]})", most[0] <= bound))
    if results.part_samples:
        most = max(sample.p99 for sample in results.part_samples)
        found.append(Target("p99 at 70 % load, every operation: < 100 ms", f"{most:.1f} ms", most < 100))
    memory, served = results.memory["todochat"], results.served["todochat"]
    found.append(Target("memory: ≤ 90 MiB", f"{memory:.0f} MiB after {served:,} requests", memory <= 90))
    start = results.starts["todochat"]
    found.append(Target("start to first answer: ≤ 1.5 s", f"{start:.1f} s", start <= 1.5))
    return found


def _database_targets(results: Results) -> list[Target]:
    more = {
        operation: database_middle(results, operation, "secured", "cpu")
        / database_middle(results, operation, "bare", "cpu")
        for operation in OPERATIONS
    }
    share = {
        operation: median(rates(results, "todochat", operation))
        / database_middle(results, operation, "full", "per_second")
        for operation in OPERATIONS
        if operation not in READS
    }
    most, least = max(more, key=lambda name: more[name]), min(share, key=lambda name: share[name])
    found = [
        Target(
            "row security and context: ≤ 25 % more database CPU",
            f"{more[most] - 1:+.0%} ({OPERATIONS[most]})",
            more[most] <= 1.25,
        ),
        Target(
            "against the database's own ceiling, writes: ≥ 60 %",
            f"{share[least]:.0%} ({OPERATIONS[least]})",
            share[least] >= 0.6,
        ),
    ]
    for operation, bound in DATABASE_CPU.items():
        cpu = middle(results.samples, "todochat", operation, lambda sample: sample.database_cpu)
        text = f"PostgreSQL's CPU, {OPERATIONS[operation]}: ≤ {bound} µs"
        found.append(Target(text, f"{cpu:.0f} µs", cpu <= bound))
    if results.writes:
        disk = results.writes["message"].disk + MESSAGE_BYTES - len(SAID)
        text = f"disk for a message of {MESSAGE_BYTES} bytes, indexes and trail included: ≤ 900 bytes"
        found.append(Target(text, f"{disk:.0f} bytes", disk <= 900))
    return found

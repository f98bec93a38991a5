"""More connections, more load than it bears, and more processes."""

import time
from statistics import mean, median

import psycopg

from tests.bench.measure import CORES, Sample, memory_mib
from tests.bench.operations import OPERATIONS, READS, Operation
from tests.bench.scale.base import MANY, Scale, pool
from tests.bench.scale.results import Findings, Table, series
from tests.bench.services import Running, running
from tests.bench.targets import Target

PART = 0.7
"""Of what it bears: so much must be answered, whoever many connections it comes over."""
OVERLOADS = (1, 2, 4)
"""How many times what it bears comes in."""


def with_connections(scale: Scale) -> Findings:
    """Up to as many connections as a process takes: each sending at once what it can, and at 70 % of what it bears."""
    plan = scale.plan
    at_most = max(count for count in plan.connections if count <= MANY)
    rows: list[list[str]] = []
    closed: dict[tuple[Operation, int], Sample] = {}
    paced: dict[tuple[Operation, int], Sample] = {}
    with running(scale.contender, scale.database) as service:
        for operation in plan.operations:
            bears = scale.best([service], operation, at_most)
            for count in plan.connections:
                key = operation, count
                one = closed[key] = bears if count == at_most else _closed(scale, service, operation, count)
                numbers = [f"{one.per_second:,.0f}", f"{one.refused / one.seconds:,.0f}", f"{one.p50:.1f}"]
                numbers += [f"{one.p99:.1f}", f"{one.longest:.0f}"]
                if count >= at_most:
                    rate, seconds = bears.per_second * PART, plan.seconds * 1.5
                    other = paced[key] = scale.load([service], operation, count, seconds=seconds, rate=rate)
                    answered = other.answers / (other.answers + other.refused)
                    numbers += [f"{rate:,.0f}", f"{answered:.1%}", f"{other.p99:.1f}"]
                else:
                    numbers += ["", "", ""]
                rows.append([OPERATIONS[operation], str(count), *numbers, f"{memory_mib(service.pids):.0f}"])
    head = ["operation", "connections", "answered/s", "refused/s", "p50, ms", "p99, ms", "longest, ms"]
    head += ["at 70 %: asked/s", "answered", "p99, ms", "memory, MiB"]
    growing = [
        series(
            panel,
            OPERATIONS[operation],
            unit,
            "connections",
            [(count, of_it(one)) for (of, count), one in paced.items() if of == operation],
        )
        for panel, unit, of_it in (("p99 at 70 % load", "ms", _p99), ("CPU a request at 70 % load", "µs", _cpu))
        for operation in plan.operations
    ]
    return Findings(
        "Connections",
        "One process with a pool of 10, where 200 requests may wait; what comes beyond that is refused (503), so that "
        "of a closed loop over more connections some are. At 70 % of what it bears over "
        f"{at_most} connections, nothing may be.",
        [Table("", head, rows)],
        growing,
        _connection_targets(closed, paced, at_most),
    )


def _closed(scale: Scale, service: Running, operation: Operation, count: int) -> Sample:
    return scale.best([service], operation, count) if count < MANY else scale.load([service], operation, count)


def _p99(sample: Sample) -> float:
    return sample.p99


def _cpu(sample: Sample) -> float:
    return sample.service_cpu + sample.database_cpu


def _connection_targets(
    closed: dict[tuple[Operation, int], Sample], paced: dict[tuple[Operation, int], Sample], at_most: int
) -> list[Target]:
    found: list[Target] = []
    for kind, bound, is_read in (("reads", 40, True), ("writes", 80, False)):
        of_kind = [
            (one.p99, OPERATIONS[operation])
            for (operation, count), one in closed.items()
            if count == at_most and (operation in READS) == is_read
        ]
        if of_kind:
            p99, label = max(of_kind)
            text = f"p99 at {at_most} connections, {kind}: ≤ {bound} ms"
            found.append(Target(text, f"{p99:.1f} ms ({label})", p99 <= bound))
    p99, label, count = max((one.p99, OPERATIONS[operation], count) for (operation, count), one in paced.items())
    refused = sum(one.refused for one in paced.values())
    return [
        *found,
        Target("p99 at 70 % load, all connections: < 100 ms", f"{p99:.1f} ms ({label}, {count})", p99 < 100),
        Target("refused at 70 % load, all connections: none", f"{refused:,}", refused == 0),
    ]


def with_overload(scale: Scale) -> Findings:
    """Several times as much as it bears, at even intervals, one round after another; and a little later.

    A second process, which is never overloaded, tells what the machine bears in the same seconds.
    """
    plan = scale.plan
    rows: list[list[str]] = []
    goodputs: list[tuple[float, str]] = []
    refusals: list[tuple[float, str]] = []
    costs: list[tuple[float, str]] = []
    afterwards: list[tuple[float, str]] = []
    with running(scale.contender, scale.database) as service, running(scale.contender, scale.database) as spared:
        operations: list[Operation] = [one for one in ("get", "append") if one in plan.operations]
        memories: list[float] = []
        for operation in operations:
            before = [scale.load([one], operation, MANY).per_second for one in (service, spared)]
            lasting: list[float] = []
            for times in OVERLOADS:
                label = f"{OPERATIONS[operation]}, {times}×"
                for _ in range(plan.overload_rounds):
                    seconds, rate = plan.seconds * 2, before[0] * times
                    one = scale.load([service], operation, plan.overload_connections, seconds=seconds, rate=rate)
                    memories.append(memory_mib(service.pids))
                    time.sleep(plan.recovery)
                    after = [scale.load([one], operation, MANY).per_second for one in (service, spared)]
                    goodput = one.per_second / mean([*before, *after])
                    if times > 1:
                        goodputs.append((goodput, label))
                        refusals.append((one.refused_p50, label))
                        lasting.append(after[0] / after[1])
                    numbers = [f"{before[0]:,.0f}", f"{rate:,.0f}", f"{one.per_second:,.0f} ({goodput:.0%})"]
                    numbers += [f"{one.refused / one.seconds:,.0f}", f"{one.refused_p50:.0f}", f"{after[0]:,.0f}"]
                    rows.append([label, *numbers, f"{after[1]:,.0f}", f"{memories[-1]:.0f}"])
                    before = after
            afterwards.append((median(lasting), OPERATIONS[operation]))
            costs.append(_cost_of_refusing(scale, service, operation))
        left = pool(service)
    head = ["operation", "bears, before", "come in", "answered (of what it bears)", "refused (503)"]
    head += ["refused within, ms", f"bears, {plan.recovery:g} s later", "a spared process", "memory, MiB"]
    goodput, refused, after, cost = min(goodputs), max(refusals), min(afterwards), max(costs)
    grown = max(memories) - memories[0]
    told = ", ".join(f"{name} {value:.0f}" for name, value in left.items())
    is_whole = left["in_use"] == left["waiting"] == 0
    return Findings(
        "Several times what it bears",
        f"Requests per second, over {plan.overload_connections:,} connections; what finds no free connection waits "
        f"outside, unanswered. What it bears, over {MANY}, is measured anew between the rounds, and then what another "
        "process bears that was never overloaded, because the machine's own pace changes. A round is held against the "
        "mean of all four; what it bears later, against the other process (the median of the rounds). Refusals: at the "
        "median. What one costs is the process's CPU while all are refused, since a lock holds up whoever has a "
        f"connection; serving takes the service's and PostgreSQL's. The pool at the end: {told}.",
        [Table("", head, rows)],
        targets=[
            Target("goodput at 2 and 4 times: ≥ 80 %", f"{goodput[0]:.0%} ({goodput[1]})", goodput[0] >= 0.8),
            Target("a refusal: < 10 % of the CPU of serving", f"{cost[0]:.1%} ({cost[1]})", cost[0] < 0.1),
            Target("503 within 100 ms at the median", f"{refused[0]:.0f} ms ({refused[1]})", refused[0] <= 100),
            Target(
                "nothing lost afterwards: ≥ 90 % of a spared process, pool free",
                f"{after[0]:.0%} ({after[1]}); {told}",
                after[0] >= 0.9 and is_whole,
            ),
            Target("memory flat: ≤ 10 MiB more than in the first round", f"{grown:+.0f} MiB", grown <= 10),
        ],
    )


def _cost_of_refusing(scale: Scale, service: Running, operation: Operation) -> tuple[float, str]:
    """A refusal's CPU, while nobody is served, as a share of serving right before it: the median of some rounds."""
    found: list[tuple[float, str]] = []
    for _ in range(scale.plan.rounds):
        served = scale.load([service], operation, MANY)
        with psycopg.connect(scale.database.superuser_url) as blocker:
            blocker.execute("LOCK TABLE users")
            rate, seconds = served.per_second * OVERLOADS[-1], scale.plan.seconds / 2
            connections = scale.plan.overload_connections
            refused = scale.load([service], operation, connections, seconds=seconds, rate=rate, status=503)
        text = f"{refused.service_cpu:.0f} of {_cpu(served):.0f} µs"
        found.append((refused.service_cpu / _cpu(served), text))
    return sorted(found)[len(found) // 2]


def with_processes(scale: Scale) -> Findings:
    """One process and two, at 64 connections."""
    rows: list[list[str]] = []
    with running(scale.contender, scale.database) as first, running(scale.contender, scale.database) as second:
        for operation in scale.plan.operations:
            one = scale.best([first], operation, MANY)
            two = scale.best([first, second], operation, MANY)
            ratio = f"{two.per_second / one.per_second:.2f}×"
            cpu = f"{_cpu(one):.0f} → {_cpu(two):.0f}"
            rows.append([OPERATIONS[operation], f"{one.per_second:,.0f}", f"{two.per_second:,.0f}", ratio, cpu])
    return Findings(
        "Processes",
        f"Requests per second at {MANY} connections on {len(CORES)} cores, which PostgreSQL and the load share with "
        "them; CPU of service and PostgreSQL for a request, µs.",
        [Table("", ["operation", "one process", "two", "", "CPU"], rows)],
    )

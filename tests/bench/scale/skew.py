"""A user who owns very much beside users who own what most do: what a request costs either, and the others' wait."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.bench.measure import Sample
from tests.bench.operations import OPERATIONS, Operation, Pick
from tests.bench.scale.accounts import file, import_request, new_account
from tests.bench.scale.base import MANY, Scale, send
from tests.bench.scale.pages import Touched, touched
from tests.bench.scale.results import Findings, Table
from tests.bench.services import STATUS, running, write_requests
from tests.bench.targets import Target

PART = 0.3
"""Of what the process bears, the small users ask for, while the large one asks for as much as there is."""
LARGE_CONNECTIONS = 8
MOST_CPU = 1.5
SECONDS = 130.0
CONVERSATION = 10


class _Costs(NamedTuple):
    small: Sample
    large: Sample
    quiet: Sample
    together: Sample


def with_skew(scale: Scale) -> Findings:
    """The six operations for one large user and for small ones, by turns and at the same time."""
    said, others, todos = scale.plan.owned
    large = _large_picks(scale)
    path = {operation: scale.folder / f"large-{operation}" for operation in scale.plan.operations}
    for operation in scale.plan.operations:
        write_requests(path[operation], scale.contender, operation, large[operation])
    kinds = {**_kinds(scale, "small", scale.bench.picks), **_kinds(scale, "large", large)}
    pages = touched(scale.database, scale.folder, kinds)
    costs: dict[Operation, _Costs] = {}
    with running(scale.contender, scale.database) as service, ThreadPoolExecutor(1) as other:
        for operation in scale.plan.operations:
            small = scale.best([service], operation, 1)
            one = sorted(
                (scale.load([service], operation, 1, requests=path[operation]) for _ in range(scale.plan.rounds)),
                key=lambda sample: sample.per_second,
            )[scale.plan.rounds // 2]
            rate = scale.load([service], operation, MANY).per_second * PART
            quiet = scale.load([service], operation, MANY, rate=rate)
            seconds = scale.plan.seconds * 2  # from before the other begins until it has ended
            greedy = other.submit(
                scale.load, [service], operation, LARGE_CONNECTIONS, seconds=seconds, requests=path[operation]
            )
            together = scale.load([service], operation, MANY, rate=rate)
            greedy.result()
            costs[operation] = _Costs(small, one, quiet, together)
    rows: list[list[str]] = []
    failures: list[str] = []
    for operation, cost in costs.items():
        label, before, now = OPERATIONS[operation], pages[f"small {operation}"], pages[f"large {operation}"]
        rows.append([label, *_cells(before, now, cost)])
        if not before.allows(now):
            failures.append(
                f"{label}: {now.pages:.1f} pages for the user with {said:,} messages, {before.pages:.1f} for others: a "
                "request's cost grows with what its user owns"
            )
    ratio, label = max((_cpu(cost.large) / _cpu(cost.small), OPERATIONS[of]) for of, cost in costs.items())
    head = ["operation", "pages, small", "large", "p50, small, ms", "large", "p99, small", "large", "CPU, small, µs"]
    head += ["large", "small users' p99 at 30 %, ms", "beside the large one", "refused"]
    return Findings(
        "One user who owns much",
        f"One user has {said:,} messages in a conversation, {others:,} other conversations and {todos:,} todos; the "
        "small ones have 50 todos and 100 messages each on the average. Over one connection, each by themselves; then "
        f"the small ones at 30 % of what the process bears, quiet and while the large one sends over "
        f"{LARGE_CONNECTIONS} connections what it can. CPU is that of service and PostgreSQL.",
        [Table("", head, rows)],
        targets=[
            Target(f"CPU of the large user's request: ≤ {MOST_CPU}×", f"{ratio:.2f}× ({label})", ratio <= MOST_CPU)
        ],
        failures=failures,
    )


def _large_picks(scale: Scale) -> dict[Operation, list[Pick]]:
    """Make the large user; the rows of theirs to ask for."""
    said, others, todos = scale.plan.owned
    user_id = new_account(scale.database)
    with running(scale.contender, scale.database) as service:
        content, (conversation,) = file(0, [said])
        scale.say(f"one user gets {said:,} messages, {others:,} conversations and {todos:,} todos")
        send(service, "import", import_request(user_id, content), 200, SECONDS)
        content, _ = file(todos, [CONVERSATION] * others)
        send(service, "import", import_request(user_id, content), 200, SECONDS)
    scale.database.execute("VACUUM (ANALYZE) todos, conversations, messages")  # autovacuum, which is off, would
    query = "SELECT user_id::text, id::text FROM todos WHERE user_id = %s ORDER BY md5(id::text) LIMIT 2000"
    found = [Pick(*row) for row in scale.database.execute(query, (user_id,))]
    whole, talk = [Pick(user_id)], [Pick(user_id, str(conversation))]
    return {"get": found, "list": whole, "create": whole, "append": talk, "last": talk, "turn": talk}


def _kinds(scale: Scale, whose: str, picks: dict[Operation, list[Pick]]) -> dict[str, tuple[int, list[bytes]]]:
    count = scale.plan.counted
    asked = {operation: (picks[operation] * count)[:count] for operation in scale.plan.operations}
    return {
        f"{whose} {operation}": (
            STATUS[operation],
            [scale.contender.request(operation, one) for one in asked[operation]],
        )
        for operation in scale.plan.operations
    }


def _cells(before: Touched, now: Touched, cost: _Costs) -> list[str]:
    pages = [f"{before.pages:.1f}", f"{now.pages:.1f}"]
    p50 = [f"{cost.small.p50:.2f}", f"{cost.large.p50:.2f}"]
    p99 = [f"{cost.small.p99:.1f}", f"{cost.large.p99:.1f}"]
    cpu = [f"{_cpu(cost.small):.0f}", f"{_cpu(cost.large):.0f}"]
    beside = [f"{cost.quiet.p99:.1f}", f"{cost.together.p99:.1f}", f"{cost.quiet.refused + cost.together.refused}"]
    return [*pages, *p50, *p99, *cpu, *beside]


def _cpu(sample: Sample) -> float:
    return sample.service_cpu + sample.database_cpu

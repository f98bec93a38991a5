"""The database can't be reached for longer than every timeout there is."""

import time
from collections import Counter
from collections.abc import Callable

from tests.faults.conftest import Outage

OUTAGE_SECONDS = 20.0
BACK_SECONDS = 3.0


def test_an_outage_is_answered_fast_and_the_service_is_back_soon_after_it(
    outage: Outage, record_property: Callable[[str, object], None]
) -> None:
    time.sleep(max(0.0, outage.began + OUTAGE_SECONDS - time.monotonic()))
    # It was refusing up to its end, and nobody else's connection got through.
    outage.service.proxy.accept()
    over = time.monotonic()
    outage.service.server.wait_until_ready(BACK_SECONDS)
    back = time.monotonic() - over
    outage.service.wait_until_whole()
    outage.stream.stop()
    record_property("back_after_seconds", back)
    assert back < BACK_SECONDS

    by_path: dict[str, list[tuple[float, int, float, str | None, str | None]]] = {}
    for ask, answer in outage.stream.answers:
        by_path.setdefault(ask.path.split("/")[1], []).append(
            (answer.at, answer.status, answer.seconds, answer.code, answer.retry_after)
        )
    # What came in its first half second may have been on its way before.
    during = [item for item in by_path["v1"] if outage.began + 0.5 < item[0] < over]
    assert len(during) > 200
    assert Counter(status for _, status, _, _, _ in during).keys() == {503}
    assert {code for _, _, _, code, _ in during} == {"database_unavailable"}
    assert all(retry_after for _, _, _, _, retry_after in during)
    after = [item for item in by_path["v1"] if item[0] > over + BACK_SECONDS]
    assert {status for _, status, _, _, _ in after} <= {200, 201}

    health = [
        (ask.path, answer)
        for ask, answer in outage.stream.answers
        if ask.path.startswith("/health") and outage.began + 0.5 < answer.at < over
    ]
    assert {answer.status for path, answer in health if path == "/health/live"} == {200}
    assert {answer.status for path, answer in health if path == "/health/ready"} == {503}
    slowest = max(seconds for at, _, seconds, _, _ in during if at > outage.began + 2)
    record_property("slowest_refusal_seconds", slowest)
    # Where the machine is busy with other things, what needs no database takes long, too.
    assert slowest < 1 + max(answer.seconds for path, answer in health if path == "/health/live")

"""A network that swallows everything: connections stay open and nobody answers."""

from collections.abc import Callable

from tests.faults.conftest import Service
from tests.support.load import Ask, Stream, at_once, lateness, wait_for


def test_when_the_connections_stall_every_request_is_answered_and_only_readiness_is_red(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    asks = [*service.reads, *service.creations("lost")]
    health_asks = [Ask("GET", "/health/live"), Ask("GET", "/health/ready")]
    with lateness() as late, Stream(service.url, health_asks, pause=0.1) as health:
        service.proxy.stall()
        answers = at_once(service.url, [*service.reads[:2], *service.creations("lost")[:2]])
        later = at_once(service.url, asks * 3)
        service.proxy.resume()
    for answer in [*answers, *later]:
        assert answer.status == 503
        assert answer.code in ("timeout", "overloaded", "database_unavailable")
        assert answer.retry_after
    slowest = max(answer.seconds for answer in answers)
    record_property("slowest_answer_seconds", slowest)
    assert slowest < 6 + late()
    # The first four have shown that the other connections are not to be trusted: nobody waits for those as long.
    assert max(answer.seconds for answer in later) < 4 + late()
    live = [answer for ask, answer in health.answers if ask.path == "/health/live"]
    ready = [answer for ask, answer in health.answers if ask.path == "/health/ready"]
    assert {answer.status for answer in live} == {200}
    assert max(answer.seconds for answer in live) < 1 + late()
    # The first question may have been asked before the stall, the last one after it.
    assert {answer.status for answer in ready[1:-2]} == {503}
    assert max(answer.seconds for answer in ready) < 2 + late()

    wait_for(lambda: at_once(service.url, asks[:1])[0].status == 200, 5)
    # What had been sent before may have arrived late, and been carried out: it was answered as uncertain.
    assert {answer.status for answer in at_once(service.url, asks)} <= {200, 201}

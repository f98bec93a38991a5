"""The database closes connections: all at once while nobody uses them, under load, and in the worst moment."""

import secrets
from collections.abc import Callable

import pytest

from tests.faults.conftest import POOL_SIZE, Service
from tests.support.load import Ask, Stream, at_once, lateness, wait_for


def stored(service: Service, title: str) -> int:
    row = service.admin.execute("SELECT count(*) FROM todos WHERE title = %s", (title,)).fetchone()
    assert row
    return int(row[0])


@pytest.mark.parametrize("requests", [1, 3, 30])
def test_after_all_connections_were_terminated_every_read_is_answered(
    service: Service, requests: int, record_property: Callable[[str, object], None]
) -> None:
    assert service.terminate_all() == POOL_SIZE
    with lateness() as late:
        answers = at_once(service.url, (service.reads * 5)[:requests])
    assert [answer.status for answer in answers] == [200] * requests
    first = min(answer.seconds for answer in answers)
    record_property("first_answer_seconds", first)
    assert first < 1 + late()


@pytest.mark.parametrize("requests", [1, 3, 30])
def test_after_all_connections_were_terminated_every_write_is_done_once(service: Service, requests: int) -> None:
    assert service.terminate_all() == POOL_SIZE
    title = secrets.token_hex(8)
    with lateness() as late:
        answers = at_once(service.url, (service.creations(title) * 5)[:requests])
    assert [answer.status for answer in answers] == [201] * requests
    assert min(answer.seconds for answer in answers) < 1 + late()
    assert stored(service, title) == requests


def test_reads_under_load_do_not_notice_that_connections_are_terminated(service: Service) -> None:
    """But where a third of a second passes without any connection, as on a busy machine: then the log says so."""
    told = len(service.server.log())
    with Stream(service.url, service.reads * 2, pause=0.0) as stream:
        for _ in range(5):
            seen = len(stream.answers)
            service.terminate_all()
            wait_for(lambda seen=seen: len(stream.answers) > seen + 50)
    expected = {200, 503} if "database_unreachable" in service.server.log()[told:] else {200}
    assert stream.statuses().keys() <= expected, stream.statuses()


def test_writes_under_load_are_done_once_or_said_to_be_uncertain_when_connections_are_terminated(
    service: Service,
) -> None:
    title = secrets.token_hex(8)
    with Stream(service.url, service.creations(title) * 2, pause=0.0) as stream:
        for _ in range(5):
            seen = len(stream.answers)
            service.terminate_all()
            wait_for(lambda seen=seen: len(stream.answers) > seen + 50)
    statuses = stream.statuses()
    assert statuses.keys() <= {201, 503}
    assert all(answer.code == "database_unavailable" for _, answer in stream.answers if answer.status == 503)
    assert statuses[201] <= stored(service, title) <= statuses[201] + statuses[503]


def test_a_write_whose_answer_is_lost_is_not_tried_again(service: Service) -> None:
    title = secrets.token_hex(8)
    service.proxy.lose_answer_to(title.encode())
    (answer,) = at_once(service.url, service.creations(title)[:1])
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert "not known" in answer.body["detail"]
    assert answer.retry_after
    assert stored(service, title) == 1


def test_openai_s_sdk_does_not_repeat_an_item_whose_answer_is_lost(service: Service) -> None:
    """By itself it repeats what was answered 503, and sends no Idempotency-Key."""
    import openai

    text = secrets.token_hex(8)
    with openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=service.users[0].token) as client:
        conversation = client.conversations.create()
        service.proxy.lose_answer_to(text.encode())
        with pytest.raises(openai.InternalServerError, match="not known"):
            client.conversations.items.create(conversation.id, items=[{"role": "user", "content": text}])
        (item,) = client.conversations.items.list(conversation.id)
    assert text in str(item)


def test_a_read_whose_answer_is_lost_is_tried_again(service: Service) -> None:
    service.proxy.lose_answer_to(b"get_me\0")
    with lateness() as late:
        (answer,) = at_once(service.url, [Ask("GET", "/v1/users/me", service.users[0].token)])
    assert answer.status == 200
    assert answer.seconds < 1 + late()

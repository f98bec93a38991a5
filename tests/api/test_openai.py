"""OpenAI's conversations, by the unchanged SDK, the Agents SDK's session on it, and by hand."""

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from service.app import PROTOCOL_HANDLERS
from tests.conftest import PLAIN_HTTP, Server, User

if TYPE_CHECKING:  # a second to import, which not every process need spend to find tests
    from openai import AsyncOpenAI, OpenAI


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


def key_of(user: User, scope: str = "write") -> str:
    return user.client.post("/v1/keys", json={"name": "Agent", "scope": scope}).json()["key"]


def connect(server: Server, key: str) -> "OpenAI":
    from openai import DefaultHttpxClient, OpenAI

    plain = DefaultHttpxClient(verify=PLAIN_HTTP)
    return OpenAI(base_url=f"{server.url}/openai/v1", api_key=key, max_retries=0, http_client=plain)


@pytest.fixture
def sdk(server: Server, user: User) -> Iterator["OpenAI"]:
    with connect(server, key_of(user)) as client:
        yield client


@pytest.fixture
def async_sdk(server: Server, user: User) -> "AsyncOpenAI":
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    plain = DefaultAsyncHttpxClient(verify=PLAIN_HTTP)
    return AsyncOpenAI(base_url=f"{server.url}/openai/v1", api_key=key_of(user), max_retries=0, http_client=plain)


HELLO: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}', "id": "fc_own"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c1", "output": "x" * 30_000}


# The SDK


def test_a_conversation_is_made_read_changed_and_deleted(sdk: "OpenAI", user: User):
    from openai import NotFoundError

    made = sdk.conversations.create(items=[HELLO], metadata={"topic": "demo"})
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert sdk.conversations.retrieve(made.id) == made
    changed = sdk.conversations.update(made.id, metadata={"topic": "other"})
    assert (changed.id, changed.created_at, changed.metadata) == (made.id, made.created_at, {"topic": "other"})
    path = f"/v1/conversations/{UUID(hex=made.id.removeprefix('conv_'))}"
    ours = user.client.get(path).json()
    assert (ours["metadata"], ours["message_count"]) == ({"topic": "other"}, 1)
    assert user.client.get(f"{path}/messages").json()["items"][0]["content"] == "Hello"
    deleted = sdk.conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(NotFoundError):
        sdk.conversations.retrieve(made.id)


def test_items_are_added_listed_read_and_deleted(sdk: "OpenAI"):
    conversation = sdk.conversations.create(items=[]).id
    added = sdk.conversations.items.create(conversation, items=[HELLO, CALL, OUTPUT])
    ids = [item.id for item in added.data]
    assert [item_id.partition("_")[0] for item_id in ids if item_id] == ["msg", "fc", "fco"]
    assert ids[1] == "fc_own"
    assert (added.first_id, added.last_id, added.has_more) == (ids[0], ids[2], False)
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        for limit in (1, 2, 100):
            found = list(sdk.conversations.items.list(conversation, order=order, limit=limit))  # type: ignore[arg-type]
            assert [item.id for item in found] == expected
    assert [item.id for item in sdk.conversations.items.list(conversation)] == ids[::-1], "newest first by default"
    for item in added.data:
        assert item.id
        assert sdk.conversations.items.retrieve(item.id, conversation_id=conversation) == item
    assert sdk.conversations.items.delete(ids[1] or "", conversation_id=conversation).id == conversation
    assert [item.id for item in sdk.conversations.items.list(conversation, order="asc")] == [ids[0], ids[2]]
    included: Any = ["reasoning.encrypted_content", "message.input_image.image_url"]
    assert len(sdk.conversations.items.list(conversation, include=included).data) == 2


TOOL = {"type": "function", "name": "t", "parameters": {"type": "object"}, "strict": True}
ITEMS: list[Any] = [
    {**HELLO, "id": "msg_1", "status": "completed"},
    {
        "type": "message",
        "id": "msg_2",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Hi\ud7ff 🙂", "annotations": []},
            {"type": "refusal", "refusal": "No"},
        ],
    },
    {**CALL, "status": "completed"},
    {**OUTPUT, "id": "fco_1", "status": "completed"},
    {**OUTPUT, "id": "fco_2", "output": [{"type": "input_text", "text": "x"}], "status": "completed"},
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "T"}],
        "encrypted_content": "gA==",
    },
    {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed", "results": None},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "milk"}},
    {"type": "image_generation_call", "id": "ig_1", "result": "aGk=" * 9000, "status": "completed"},
    {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "c",
        "status": "completed",
        "pending_safety_checks": [],
        "action": {"type": "click", "button": "left", "x": 1, "y": 2},
    },
    {
        "type": "computer_call_output",
        "id": "cuo_1",
        "call_id": "c",
        "status": "completed",
        "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,aGk="},
    },
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "code": "print(1)",
        "container_id": "cntr",
        "outputs": [{"type": "logs", "logs": "1"}],
        "status": "completed",
    },
    {
        "type": "local_shell_call",
        "id": "lsh_1",
        "call_id": "l",
        "status": "completed",
        "action": {"type": "exec", "command": ["ls"], "env": {}},
    },
    {"type": "local_shell_call_output", "id": "lsho_1", "output": "{}"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
    {"type": "mcp_approval_request", "id": "mcpr_1", "arguments": "{}", "name": "t", "server_label": "s"},
    {"type": "mcp_approval_response", "id": "mcpa_1", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "mcp_call", "id": "mcp_1", "arguments": "{}", "name": "t", "server_label": "s", "output": "ok"},
    {"type": "custom_tool_call", "id": "ctc_1", "call_id": "k", "input": "text", "name": "t"},
    {"type": "custom_tool_call_output", "id": "ctco_1", "call_id": "k", "output": "done"},
    {
        "type": "shell_call",
        "id": "sh_1",
        "call_id": "s",
        "status": "completed",
        "action": {"commands": ["ls"], "max_output_length": None, "timeout_ms": 1000},
    },
    {
        "type": "shell_call_output",
        "id": "sho_1",
        "call_id": "s",
        "status": "completed",
        "output": [{"outcome": {"type": "exit", "exit_code": 0}, "stderr": "", "stdout": "a\n"}],
    },
    {
        "type": "apply_patch_call",
        "id": "ap_1",
        "call_id": "p",
        "status": "completed",
        "operation": {"type": "create_file", "path": "a.txt", "diff": "+a"},
    },
    {"type": "apply_patch_call_output", "id": "apo_1", "call_id": "p", "status": "completed", "output": "ok"},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "gA=="},
    {"type": "configuration_update", "id": "cfg_1"},
    {"type": "program", "id": "pr_1", "call_id": "g", "code": "1", "fingerprint": "f"},
    {"type": "program_output", "id": "pro_1", "call_id": "g", "result": "1", "status": "completed"},
    {"type": "tool_search_call", "id": "ts_1", "arguments": {"q": 1.0}, "execution": "client", "status": "completed"},
    {"type": "tool_search_output", "id": "tso_1", "execution": "client", "status": "completed", "tools": [TOOL]},
    {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [TOOL]},
]


def item_types(kind: Any) -> Iterator[str]:
    """The values of ``type`` in the SDK's union of items."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if hasattr(kind, "model_fields"):
        yield get_args(kind.model_fields["type"].annotation)[0]
    else:
        for part in get_args(kind):
            yield from item_types(part)


def test_the_items_here_are_of_every_type_of_the_sdk():
    from openai.types.conversations import ConversationItem

    assert {item["type"] for item in ITEMS} == set(item_types(ConversationItem))


def test_every_item_type_of_the_sdk_comes_back_equal(sdk: "OpenAI"):
    conversation = sdk.conversations.create(items=ITEMS[:11]).id
    added = sdk.conversations.items.create(conversation, items=ITEMS[11:])
    assert [item.model_dump(exclude_unset=True) for item in added.data] == ITEMS[11:]
    listed = list(sdk.conversations.items.list(conversation, order="asc", limit=7))
    assert [item.model_dump(exclude_unset=True) for item in listed] == ITEMS


def test_answers_hold_to_the_sdks_types(sdk: "OpenAI", user: User):
    from openai.types.conversations import ConversationItemList

    easy: Any = {"role": "user", "content": "Hi"}
    conversation = sdk.conversations.create(items=[easy, CALL]).id
    path = f"/v1/conversations/{UUID(hex=conversation.removeprefix('conv_'))}"
    user.client.post(f"{path}/messages", json={"sender_type": "ai", "content": "By HTTP"})
    answer = sdk.conversations.items.with_raw_response.list(conversation, order="asc").http_response
    page = ConversationItemList.model_validate(answer.json(), strict=True)
    assert [getattr(item, "role", None) for item in page.data] == ["user", None, "assistant"]
    assert [item.content[0].text for item in page.data if item.type == "message"] == ["Hi", "By HTTP"]  # type: ignore[union-attr]
    kept = user.client.get(f"{path}/messages?items=true").json()["items"][0]["item"]
    assert kept == easy, "what was sent is kept as it is"


def post_items(user: User, conversation: str, items: bytes) -> None:
    """Byte for byte, as no SDK writes them."""
    path = f"/openai/v1/conversations/{conversation}/items"
    sent = {"content": b'{"items":[%b]}' % items, "headers": {"Content-Type": "application/json"}}
    answer = user.client.post(path, **sent)
    assert answer.status_code == 200, answer.text


def test_half_a_surrogate_pair_stays_the_escape_that_it_was(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create().id
    call = rb'{"type":"function_call","id":"\ud800","call_id":"c1","name":"f","arguments":"\udc00"}'
    post_items(user, conversation, rb'{"role":"user","content":"cut \ud83d"},' + call)
    answer = user.client.get(f"/openai/v1/conversations/{conversation}/items?order=asc")
    assert answer.status_code == 200
    assert rb'"cut \ud83d"' in answer.content
    assert rb'"arguments":"\udc00"' in answer.content
    assert len(list(sdk.conversations.items.list(conversation, limit=1))) == 2


@pytest.mark.parametrize("name", ["output", r"\ud800"])
def test_beside_half_a_surrogate_pair_null_stands_for_what_is_left_out_too(sdk: "OpenAI", user: User, name: str):
    conversation = sdk.conversations.create().id
    output = rb'{"id":null,"type":"function_call_output","status":null,"call_id":"c","%b":"\ud83d"}'
    post_items(user, conversation, output % name.encode())
    answer = user.client.get(f"/openai/v1/conversations/{conversation}/items")
    (item,) = json.loads(answer.content, object_pairs_hook=lambda pairs: pairs)[0][1]
    assert len(dict(item)) == len(item), "each field once"
    assert dict(item)["status"] == "completed"
    assert dict(item)["call_id"] == "c"
    path = f"/openai/v1/conversations/{conversation}/items/{dict(item)['id']}"
    assert user.client.get(path).json() == dict(item)
    assert b'"%b":"\\ud83d"' % name.encode() in answer.content


def test_null_stands_for_what_is_left_out(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create().id
    call = b'{"call_id":"c1","id":null,"type":"function_call","status":null,"name":"f","arguments":"{}"}'
    post_items(user, conversation, call + b',{"type":null,"role":"user","content":[{"type":"input_text","text":"x"}]}')
    answer = user.client.get(f"/openai/v1/conversations/{conversation}/items?order=asc")
    found, said = json.loads(answer.content, object_pairs_hook=lambda pairs: pairs)[0][1]
    for item in (found, said):
        assert len(dict(item)) == len(item), "each field once"
    assert (dict(found)["status"], dict(found)["call_id"], dict(said)["type"]) == ("completed", "c1", "message")
    for item in sdk.conversations.items.list(conversation):
        sdk.conversations.items.delete(item.id or "", conversation_id=conversation)
    assert not sdk.conversations.items.list(conversation).data


def test_what_is_sent_beside_a_text_comes_back_too(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create().id
    post_items(
        user,
        conversation,
        b'{"role":"assistant","content":"x","phase":"commentary","status":"incomplete","more":[1e400]},'
        b'{"role":"user","content":"y","status":null,"id":null}',
    )
    answer = user.client.get(f"/openai/v1/conversations/{conversation}/items?order=asc")
    assert b'"more":[1e400]' in answer.content
    said, asked = answer.json()["data"]
    assert (said["phase"], said["status"], said["type"]) == ("commentary", "incomplete", "message")
    assert said["content"] == [{"type": "output_text", "text": "x", "annotations": []}]
    assert (asked["status"], asked["id"][:4]) == ("completed", "msg_")


@pytest.mark.parametrize("own", ["msg_own", "a/b", "..", "x" * 256, "Ümläut?#%"])
def test_whatever_id_is_shown_can_be_read_and_deleted(sdk: "OpenAI", user: User, own: str):
    item = {"type": "reasoning", "id": own, "summary": []}
    conversation = sdk.conversations.create(items=[item, {**HELLO, "id": own}]).id  # pyright: ignore[reportArgumentType]
    path = f"/v1/conversations/{UUID(hex=conversation.removeprefix('conv_'))}/messages"
    user.client.post(path, json={"sender_type": "ai", "item": item}).raise_for_status()
    user.client.post(path, json={"sender_type": "user", "item": {"role": "user", "content": "y", "id": own}})
    first = user.client.get(path).json()["items"][0]["id"]
    user.client.patch(f"{path}/{first}", json={"metadata": {"label": "x"}}).raise_for_status()
    shown = [item.id or "" for item in sdk.conversations.items.list(conversation)]
    assert len(shown) == 4
    for item_id in shown:
        place = f"/openai/v1/conversations/{conversation}/items/{quote(item_id, safe='')}"
        assert user.client.get(place).json()["id"] == item_id
        assert user.client.delete(place).status_code == 200
    assert not sdk.conversations.items.list(conversation).data


def test_a_conversation_has_its_version(sdk: "OpenAI", user: User):
    path = f"/openai/v1/conversations/{sdk.conversations.create().id}"
    etag = user.client.get(path).headers["etag"]
    assert user.client.get(path, headers={"If-None-Match": etag}).status_code == 304
    changed = user.client.post(path, json={"metadata": {"a": "b"}}, headers={"If-Match": etag})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert user.client.post(path, json={"metadata": {}}, headers={"If-Match": etag}).status_code == 412


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_lead_on_though_ids_are_given_twice_or_were_written_elsewhere(sdk: "OpenAI", user: User, order: Any):
    conversation = sdk.conversations.create(items=[CALL, HELLO, CALL, {**CALL, "id": "__fake_id__"}]).id
    path = f"/v1/conversations/{UUID(hex=conversation.removeprefix('conv_'))}/messages"
    for _ in range(2):
        said = {"sender_type": "ai", "item": {**HELLO, "role": "assistant", "id": "msg_68a0f0", "content": []}}
        assert user.client.post(path, json=said).status_code == 201
    sdk.conversations.items.create(conversation, items=[{**CALL, "id": "__fake_id__"}, HELLO])
    whole = [item.id for item in sdk.conversations.items.list(conversation, order=order, limit=100)]
    assert len(whole) == 8
    for limit in (1, 3):
        assert [item.id for item in sdk.conversations.items.list(conversation, order=order, limit=limit)] == whole


def test_a_list_goes_on_where_what_is_answered_is_smaller_than_what_was_read(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create().id
    for _ in range(8):
        post_items(user, conversation, rb'{"role":"user","content":"%b"}' % (rb"\u4f60" * 170_000))
    assert len(list(sdk.conversations.items.list(conversation, limit=100))) == 8


def test_an_empty_list(sdk: "OpenAI"):
    conversation = sdk.conversations.create().id
    page = sdk.conversations.items.list(conversation)
    assert (page.data, page.has_more) == ([], False)


def test_20_items_are_the_most(sdk: "OpenAI"):
    from openai import UnprocessableEntityError

    conversation = sdk.conversations.create(items=[HELLO] * 20).id
    assert len(sdk.conversations.items.create(conversation, items=[HELLO] * 20).data) == 20
    for items in ([HELLO] * 21, []):
        with pytest.raises(UnprocessableEntityError):
            sdk.conversations.items.create(conversation, items=items)
    assert len(list(sdk.conversations.items.list(conversation))) == 40


def test_large_items_are_listed_a_few_at_a_time(sdk: "OpenAI"):
    conversation = sdk.conversations.create().id
    large = {**OUTPUT, "output": "x" * 1_000_000}
    for _ in range(6):
        sdk.conversations.items.create(conversation, items=[large])
    assert len(sdk.conversations.items.list(conversation, limit=100).data) < 6
    assert len(list(sdk.conversations.items.list(conversation, limit=100))) == 6


def test_items_that_escaping_makes_larger_are_listed_a_few_at_a_time_too(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create(items=[{**OUTPUT, "output": "<" * 1_000_000}] * 3).id
    answer = user.client.get(f"/openai/v1/conversations/{conversation}/items?limit=20")
    assert (len(answer.json()["data"]), answer.json()["has_more"]) == (1, True)
    assert len(list(sdk.conversations.items.list(conversation))) == 3


def test_each_item_of_a_request_may_have_1_mib(sdk: "OpenAI", user: User):
    large = {**OUTPUT, "output": "x" * 600 * 1024}
    conversation = sdk.conversations.create(items=[large, large]).id
    added = sdk.conversations.items.create(conversation, items=[large] * 8)
    assert 1 < len(added.data) < 8, "an answer has 4 MiB"
    assert added.has_more
    listed = list(sdk.conversations.items.list(conversation, limit=100))
    assert [item.to_dict()["output"] for item in listed] == [large["output"]] * 10
    too_large = {**OUTPUT, "output": "x" * 1024 * 1024}
    for path in ("", f"/{conversation}/items"):
        answer = user.client.post(f"/openai/v1/conversations{path}", json={"items": [OUTPUT, too_large]})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (422, "validation_failed", "items[1]")
        assert "must have at most 1048576 bytes" in error["message"]
    assert len(list(sdk.conversations.items.list(conversation, limit=100))) == 10


# Errors


def test_errors_come_in_openais_shape(server: Server, sdk: "OpenAI", user: User):
    from openai import AuthenticationError, NotFoundError, PermissionDeniedError

    with pytest.raises(NotFoundError) as missing:
        sdk.conversations.retrieve(f"conv_{uuid4().hex}")
    assert missing.value.body == {
        "message": "Not found.",
        "type": "not_found_error",
        "param": None,
        "code": "not_found",
    }
    with connect(server, "tck_x") as unknown, pytest.raises(AuthenticationError) as refused:
        unknown.conversations.create()
    assert refused.value.code == "invalid_token"
    with connect(server, key_of(user, "read")) as reading:
        with pytest.raises(PermissionDeniedError):
            reading.conversations.create()
        assert reading.conversations.retrieve(sdk.conversations.create().id)
    answer = user.client.post("/openai/v1/conversations", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
    answer = user.client.post("/openai/v1/conversations", json={"items": [7]})
    assert answer.json()["error"]["param"] == "items[0]"
    answer = user.client.get(f"/openai/v1/conversations/conv_{uuid4().hex}?escape=html&<b>=1")
    assert answer.json()["error"]["param"] == "&lt;b&gt;"


def test_an_id_has_one_spelling(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create(items=[{"role": "user", "content": "Hi"}])
    (item,) = sdk.conversations.items.list(conversation.id).data
    digits = conversation.id.removeprefix("conv_")
    for spelling in (f"+{digits[1:]}", digits.upper(), f" {digits[1:]}", f"{digits[:4]}_{digits[5:]}", digits[1:]):
        answer = user.client.get(f"/openai/v1/conversations/conv_{spelling}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), spelling
    for spelling in (f"msg_+{item.id[5:]}", item.id.removeprefix("msg_"), f"{item.id}%00", "%00"):
        answer = user.client.get(f"/openai/v1/conversations/{conversation.id}/items/{spelling}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), spelling


# A stranger


OPENAI = [handler for handler in PROTOCOL_HANDLERS if next(iter(handler.paths)).startswith("/openai/")]
NAMING = [handler for handler in OPENAI if "{" in next(iter(handler.paths))]


@pytest.mark.parametrize("handler", NAMING, ids=lambda handler: handler.handler_name)
def test_a_stranger_s_ids_get_the_answer_of_missing_ones(handler: Any, sdk: "OpenAI", new_user: Callable[..., User]):
    conversation = sdk.conversations.create(items=[HELLO]).id
    item = sdk.conversations.items.list(conversation).data[0].id
    other = new_user()
    own = other.client.post("/openai/v1/conversations", json={}).json()["id"]
    (method,) = handler.http_methods
    (path,) = handler.paths
    bodies = {"create_openai_items": {"items": [HELLO]}, "update_openai_conversation": {"metadata": {}}}
    places = [(conversation, item), (f"conv_{uuid4().hex}", f"msg_{uuid4().hex}"), ("x", "y")]
    if "item_id" in path:
        places.append((own, item or ""))
    answers = [
        other.client.request(
            method,
            path.replace(":str", "").format(conversation_id=place, item_id=named),
            json=bodies.get(handler.handler_name),
        )
        for place, named in places
    ]
    assert {(answer.status_code, answer.content) for answer in answers} == {(404, answers[0].content)}
    assert [found.id for found in sdk.conversations.items.list(conversation)] == [item]


@pytest.mark.parametrize("handler", OPENAI, ids=lambda handler: handler.handler_name)
def test_a_key_that_reads_does_nothing_that_writes(handler: Any, sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create(items=[HELLO]).id
    item = sdk.conversations.items.list(conversation).data[0].id
    (method,) = handler.http_methods
    (path,) = handler.paths
    bodies = {"create_openai_items": {"items": [HELLO]}, "update_openai_conversation": {"metadata": {}}}
    answer = user.client.request(
        method,
        path.replace(":str", "").format(conversation_id=conversation, item_id=item),
        json=bodies.get(handler.handler_name, {} if method == "POST" else None),
        headers={"Authorization": f"Bearer {key_of(user, 'read')}"},
    )
    if handler.opt["scope"] == "read":
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert [found.id for found in sdk.conversations.items.list(conversation)] == [item]


# The Agents SDK


@pytest.fixture
def kit() -> Any:
    """The Agents SDK and what scripts it: a second to import, which not every process need spend to find tests."""
    return import_module("tests.support.agents_kit")


def finish(sdk: "AsyncOpenAI", use: Callable[[], Any]) -> Any:
    """What ``use`` returns; the client's connections are closed behind it."""

    async def main() -> Any:
        async with sdk:
            return await use()

    return asyncio.run(main())


def test_a_run_goes_on_where_another_process_left_it(async_sdk: "AsyncOpenAI", kit: Any):
    async def talk() -> None:
        session = kit.OpenAIConversationsSession(openai_client=async_sdk)
        model = kit.Scripted(kit.called("add_task", title="Milk"), kit.said("Done"))
        agent = kit.Agent(name="A", model=model, tools=[kit.add_task])
        assert (await kit.Runner.run(agent, "Buy milk", session=session)).final_output == "Done"
        again = kit.OpenAIConversationsSession(conversation_id=session.session_id, openai_client=async_sdk)
        model = kit.Scripted(kit.said("Milk"))
        result = await kit.Runner.run(kit.Agent(name="A", model=model), "What did I ask?", session=again)
        assert result.final_output == "Milk"
        kinds = [item.get("type") for item in model.inputs[0]]
        assert kinds[:4] == ["message", "function_call", "function_call_output", "message"]
        assert model.inputs[0][2]["output"].startswith("added Milk \0")
        assert len(await again.get_items()) == 6
        assert [item["content"][0]["text"] for item in await again.get_items(limit=2)] == ["What did I ask?", "Milk"]  # type: ignore[index,call-overload]

    finish(async_sdk, talk)


def test_a_handoff_is_kept_too(async_sdk: "AsyncOpenAI", kit: Any):
    async def talk() -> None:
        session = kit.OpenAIConversationsSession(openai_client=async_sdk)
        second = kit.Agent(name="Second", model=kit.Scripted(kit.said("From the second")))
        first = kit.Agent(name="First", model=kit.Scripted(kit.called("transfer_to_second")), handoffs=[second])
        result = await kit.Runner.run(first, "Hello", session=session)
        assert (result.last_agent, result.final_output) == (second, "From the second")
        kinds = [item.get("type") for item in await session.get_items()]
        assert kinds == ["message", "function_call", "function_call_output", "message"]

    finish(async_sdk, talk)


def test_pop_and_clear(async_sdk: "AsyncOpenAI", kit: Any):
    async def use() -> None:
        session = kit.OpenAIConversationsSession(openai_client=async_sdk)
        await session.add_items([HELLO, {**CALL}, {**OUTPUT}])
        popped: Any = await session.pop_item()
        assert popped["type"] == "function_call_output"
        popped = await session.pop_item()
        assert popped == {**CALL, "status": "completed"}
        assert len(await session.get_items()) == 1
        await session.add_items([HELLO] * 45)
        assert len(await session.get_items()) == 46
        await session.clear_session()
        assert await session.get_items() == []

    finish(async_sdk, use)


def test_what_is_added_once_more_is_another_item(async_sdk: "AsyncOpenAI", kit: Any):
    async def use() -> None:
        session = kit.OpenAIConversationsSession(openai_client=async_sdk)
        await session.add_items([HELLO, {**HELLO, "role": "assistant"}])
        first, second = await session.get_items()
        await session.add_items([first])
        assert (await session.pop_item())["role"] == "user"
        assert await session.get_items() == [first, second]

    finish(async_sdk, use)


def test_twenty_writers_lose_nothing(async_sdk: "AsyncOpenAI"):
    async def write() -> None:
        conversation = (await async_sdk.conversations.create()).id
        items: Any = [{"role": "user", "content": f"{number}"} for number in range(20)]
        await asyncio.gather(*(async_sdk.conversations.items.create(conversation, items=[item]) for item in items))
        found = [item async for item in async_sdk.conversations.items.list(conversation, order="asc")]
        assert sorted(int(item.content[0].text) for item in found) == list(range(20))  # type: ignore[union-attr]

    finish(async_sdk, write)


def test_what_an_encrypted_session_keeps_is_sealed_before_it_arrives(async_sdk: "AsyncOpenAI", user: User, kit: Any):
    async def talk() -> str:
        plain = kit.OpenAIConversationsSession(openai_client=async_sdk)
        session = kit.EncryptedSession("s", plain, encryption_key="a long enough passphrase", ttl=600)
        agent = kit.Agent(name="A", model=kit.Scripted(kit.said("The secret answer"), kit.said("Again")))
        await kit.Runner.run(agent, "The secret question", session=session)
        items = await session.get_items()
        assert "The secret question" in str(items)
        assert "The secret answer" in str(items)
        return plain.session_id

    conversation = UUID(hex=finish(async_sdk, talk).removeprefix("conv_"))
    path = f"/v1/conversations/{conversation}/messages?items=true"
    seen = user.client.get(path).text + user.client.get("/v1/export").text
    assert "secret" not in seen.replace("secrets", "")


def test_what_is_written_so_is_in_everything_else(sdk: "OpenAI", user: User):
    conversation = sdk.conversations.create(items=[HELLO, CALL, OUTPUT]).id
    path = f"/v1/conversations/{UUID(hex=conversation.removeprefix('conv_'))}"
    context = user.client.get(f"{path}/context?format=items").json()
    assert context == [HELLO, CALL, OUTPUT]
    changes = user.client.get("/v1/changes").json()["items"]
    assert [change["table"] for change in changes[-4:]] == ["conversations", "messages", "messages", "messages"]
    assert json.dumps(json.dumps(CALL, separators=(",", ":")))[1:30] in user.client.get("/v1/export").text


def test_a_repeated_request_is_done_once(user: User):
    headers = {"Idempotency-Key": "once"}
    answers = [user.client.post("/openai/v1/conversations", json={"items": [HELLO]}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()

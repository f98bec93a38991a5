"""MCP: what the protocol asks for in both eras, the tools, and the official clients."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import jsonschema_rs
import pytest

from service.mcp import REVISIONS, WITH_HANDSHAKE
from service.mcp_calls import TEXT_BYTES, _told
from service.mcp_tools import TOOLS
from service.problems import Problem, unknown_outcome
from tests.conftest import PLAIN_HTTP, Server, User
from tests.support.problems import problem

NEWEST = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


def rpc(client: httpx.Client, method: str, params: Any = None, **headers: str) -> httpx.Response:
    """A request as clients of 2025 send it."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params})}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/mcp", json=body, headers={"Accept": "application/json, text/event-stream", **named})


def modern(client: httpx.Client, method: str, params: Any = None, **headers: str) -> httpx.Response:
    """A request as clients of the newest revision send it."""
    params = params or {}
    named = {"mcp-name": params["name"]} if "name" in params else {}
    sent = {"MCP_Protocol_Version": NEWEST, "Mcp_Method": method, **named, **headers}
    return rpc(client, method, {**params, "_meta": META}, **sent)


def call(client: httpx.Client, tool: str, **arguments: Any) -> Any:
    """The tool's result; its text is the structured one, unless that is long, and holds to the schema that was told."""
    answer = rpc(client, "tools/call", {"name": tool, "arguments": arguments})
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    (text,) = result["content"]
    if result.get("isError"):
        assert "structuredContent" not in result
        return json.loads(text["text"])
    if len(json.dumps(result["structuredContent"])) <= TEXT_BYTES:
        assert json.loads(text["text"]) == result["structuredContent"]
    jsonschema_rs.validate(TOOLS[tool].described["outputSchema"], result["structuredContent"])
    return result["structuredContent"]


# The protocol


@pytest.mark.parametrize("revision", [*WITH_HANDSHAKE, "2024-11-05", "2099-01-01"])
def test_the_handshake_of_2025_agrees_on_a_revision(user: User, revision: str):
    result = rpc(user.client, "initialize", {"protocolVersion": revision, "capabilities": {}}).json()["result"]
    assert result["protocolVersion"] == (revision if revision in WITH_HANDSHAKE else WITH_HANDSHAKE[0])
    assert result["capabilities"] == {"tools": {}}
    assert result["serverInfo"]["name"] == "todochat"
    assert "resultType" not in result


def test_what_follows_the_handshake(user: User):
    note = user.client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert (note.status_code, note.content) == (202, b"")
    assert rpc(user.client, "ping", MCP_Protocol_Version="2025-11-25").json() == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {},
    }
    listed = rpc(user.client, "tools/list", MCP_Protocol_Version="2025-06-18").json()["result"]
    assert listed["tools"] == [tool.described for tool in TOOLS.values()]
    for method in ("GET", "DELETE"):
        problem(user.client.request(method, "/mcp"), 405, "method_not_allowed")


def test_the_newest_revision_needs_no_handshake(user: User):
    found = modern(user.client, "server/discover").json()["result"]
    assert found["supportedVersions"] == list(REVISIONS)
    assert (found["resultType"], found["cacheScope"]) == ("complete", "public")
    assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "todochat"
    listed = modern(user.client, "tools/list").json()["result"]
    assert {tool["name"] for tool in listed["tools"]} == TOOLS.keys()
    assert (listed["resultType"], listed["ttlMs"] > 0) == ("complete", True)
    called = modern(user.client, "tools/call", {"name": "list_tasks", "arguments": {}}).json()["result"]
    assert (called["resultType"], called["structuredContent"]["items"]) == ("complete", [])


@pytest.mark.parametrize(
    ("method", "params", "headers", "status", "code"),
    [
        ("tools/none", {}, {}, 404, -32601),
        ("tools/call", {"name": "no_such_tool"}, {}, 400, -32602),
        ("tools/list", {}, {"Mcp_Method": "ping"}, 400, -32020),
        ("tools/list", {}, {"Mcp_Method": ""}, 400, -32020),
        ("tools/list", {}, {"MCP_Protocol_Version": "2025-11-25"}, 400, -32020),
        ("tools/call", {"name": "list_tasks"}, {"mcp_name": "add_task"}, 400, -32020),
        ("tools/call", {"name": "list_tasks"}, {"mcp_name": "=?base64?!?="}, 400, -32020),
    ],
)
def test_what_the_newest_revision_refuses(
    user: User, method: str, params: Any, headers: dict[str, str], status: int, code: int
):
    answer = modern(user.client, method, params, **headers)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (status, code, 1)


def test_a_tool_s_name_may_be_encoded_in_its_header(user: User):
    answer = modern(user.client, "tools/call", {"name": "list_tasks"}, mcp_name="=?base64?bGlzdF90YXNrcw==?=")
    assert answer.status_code == 200


def test_the_newest_revision_s_envelope_is_needed(user: User):
    sent = {"MCP_Protocol_Version": NEWEST, "Mcp_Method": "tools/list"}
    answer = rpc(user.client, "tools/list", {"_meta": {}}, **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


@pytest.mark.parametrize("revision", ["2024-11-05", "2099-01-01", "x"])
def test_an_unknown_revision_is_told_those_that_are_known(user: User, revision: str):
    for answer in (
        rpc(user.client, "tools/list", MCP_Protocol_Version=revision),
        rpc(
            user.client,
            "tools/list",
            {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": revision}},
            MCP_Protocol_Version=revision,
            Mcp_Method="tools/list",
        ),
        rpc(
            user.client,
            "tools/list",
            {"_meta": {"io.modelcontextprotocol/protocolVersion": revision}},
            MCP_Protocol_Version=revision,
        ),
    ):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["data"]) == (-32022, {"supported": list(REVISIONS), "requested": revision})


def test_clients_of_2025_take_errors_with_200(user: User):
    for method, params, code in (("resources/list", {}, -32601), ("tools/call", {"name": "none"}, -32602)):
        answer = rpc(user.client, method, params)
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)
    assert rpc(user.client, "tools/list", []).json()["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_request"),
        (b"[]", 422, "validation_failed"),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 422, "validation_failed"),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', 422, "validation_failed"),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {}}', 422, "validation_failed"),
    ],
)
def test_what_is_no_request_of_json_rpc_is_a_bad_request(user: User, body: bytes, status: int, code: str):
    problem(user.client.post("/mcp", content=body, headers={"Content-Type": "application/json"}), status, code)


# Who may call


def test_a_401_says_where_it_is_said_who_issues_tokens(client: httpx.Client, server: Server):
    where = f"{server.url}/.well-known/oauth-protected-resource/mcp"
    for headers, error in (({}, ""), ({"Authorization": "Bearer tck_x"}, ', error="invalid_token"')):
        answer = rpc(client, "initialize", {"protocolVersion": "2025-11-25"}, **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == f'Bearer realm="todochat"{error}, resource_metadata="{where}"'
    assert client.get(where).json() == {
        "resource": f"{server.url}/mcp",
        "resource_name": "todochat",
        "bearer_methods_supported": ["header"],
    }


def test_the_metadata_names_the_configured_issuers_and_the_public_address(start_server: Callable[..., Server]):
    made = start_server(
        ISSUER="https://issuer.example",
        ISSUER_SECRET="i" * 32,
        ISSUER_2="by-name",
        ISSUER_2_SECRET="j" * 32,
        PUBLIC_URL="https://Todos.Example.com",
    )
    found = httpx.get(f"{made.url}/.well-known/oauth-protected-resource/mcp", verify=PLAIN_HTTP).json()
    assert found["resource"] == "https://todos.example.com/mcp"
    assert found["authorization_servers"] == ["https://issuer.example"]
    answer = httpx.post(f"{made.url}/mcp", json={}, verify=PLAIN_HTTP)
    assert "https://todos.example.com/.well-known/" in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("method", "tool"),
    [
        *((method, "list_tasks") for method in ("initialize", "ping", "server/discover", "tools/list", "tools/call")),
        ("tools/call", "no_such_tool"),
        ("no/such/method", ""),
        ("notifications/initialized", None),
    ],
)
def test_every_method_proves_the_token(user: User, client: httpx.Client, method: str, tool: str | None):
    made = user.client.post("/v1/keys", json={"name": "Agent", "scope": "read"}).json()
    user.client.delete(f"/v1/keys/{made['id']}")
    authorization = {"Authorization": f"Bearer {made['key']}"}
    if tool is None:
        answer = client.post("/mcp", json={"jsonrpc": "2.0", "method": method}, headers=authorization)
    else:
        answer = rpc(client, method, {"name": tool}, **authorization)
    problem_401 = answer.json()
    assert (answer.status_code, problem_401["code"]) == (401, "invalid_token")
    assert "resource_metadata=" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost:1", "null", "http://[", "x"])
def test_a_page_of_another_origin_is_forbidden(user: User, origin: str):
    problem(rpc(user.client, "ping", Origin=origin), 403, "forbidden")


def test_a_page_whose_name_leads_here_by_a_trick_is_forbidden(user: User):
    problem(rpc(user.client, "ping", Origin="http://evil.example", Host="evil.example"), 403, "forbidden")


def test_pages_of_this_machine_and_of_allowed_origins_may_call(
    user: User, server: Server, start_server: Callable[..., Server]
):
    assert rpc(user.client, "ping", Origin=server.url).status_code == 200
    env = {"JWT_SECRET": server.env["JWT_SECRET"], "PUBLIC_URL": "https://todos.example"}
    made = start_server(database=server.database, CORS_ALLOW_ORIGINS="https://app.example", **env)
    headers = {"Authorization": f"Bearer {user.token}"}
    with httpx.Client(base_url=made.url, headers=headers, verify=PLAIN_HTTP) as own:
        for origin in ("https://app.example", "https://todos.example"):
            assert rpc(own, "ping", Origin=origin).status_code == 200
        problem(rpc(own, "ping", Origin="https://other.example"), 403, "forbidden")


# The tools

READING = {"list_tasks", "get_task", "get_context", "search"}


def test_a_tool_says_all_that_an_agent_needs():
    for tool in TOOLS.values():
        told = tool.described
        assert len(told["description"]) > 30
        assert told["description"].endswith(".")
        for schema in (told["inputSchema"], told["outputSchema"]):
            jsonschema_rs.meta.validate(schema)
            assert schema["type"] == "object"
            assert '"#/components' not in json.dumps(schema)
        assert told["inputSchema"]["additionalProperties"] is False
        assert told["annotations"]["readOnlyHint"] == (tool.name in READING) == (tool.scope == "read")
        assert told["annotations"]["openWorldHint"] is False


def test_the_five_tools_that_chatbots_know(user: User):
    made = call(user.client, "add_task", title="Buy milk", description="Two litres")
    assert (made["number"], made["status"]) == (1, "pending")
    call(user.client, "add_task", title="Buy bread")
    assert call(user.client, "complete_task", task_id=1)["status"] == "completed"
    assert (
        call(user.client, "update_task", task_id=2, title="Buy rye bread", priority="high")["title"] == "Buy rye bread"
    )
    listed = {
        status: [task["number"] for task in call(user.client, "list_tasks", status=status)["items"]]
        for status in ("all", "pending", "completed")
    }
    assert listed == {"all": [2, 1], "pending": [2], "completed": [1]}
    assert call(user.client, "delete_task", task_id=1) == {"deleted": 1}
    assert user.client.get("/v1/todos/1").status_code == 404
    assert call(user.client, "get_task", task_id=made["id"])["code"] == "not_found"


def test_tasks_are_listed_a_page_at_a_time(user: User):
    for number in range(3):
        call(user.client, "add_task", title=f"Task {number}")
    first = call(user.client, "list_tasks", limit=2)
    second = call(user.client, "list_tasks", limit=2, cursor=first["next_cursor"])
    assert [task["number"] for task in first["items"] + second["items"]] == [3, 2, 1]


def test_a_conversation_is_kept_linked_and_read_back(user: User):
    conversation = call(user.client, "start_conversation", title="Shopping")["id"]
    said = [
        {"sender_type": "user", "content": "Remind me to buy milk"},
        {"sender_type": "ai", "content": "add_task", "message_type": "command"},
    ]
    turn = call(user.client, "append_turn", conversation_id=conversation, messages=said)
    assert turn["position"] == 2
    call(user.client, "add_task", title="Buy milk", conversation_id=conversation)
    link = call(user.client, "link_task", task_id=1, conversation_id=conversation)
    assert link["relationship_type"] == "discussion"
    types = {item["relationship_type"] for item in user.client.get("/v1/links").json()["items"]}
    assert types == {"creation", "discussion"}
    context = call(user.client, "get_context", conversation_id=conversation, messages=1)
    assert context == {"context": [{"role": "assistant", "content": "add_task"}]}
    item = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
    more = {"messages": [{"sender_type": "ai", "item": item}], "context": {"messages": 1, "format": "items"}}
    assert call(user.client, "append_turn", conversation_id=conversation, **more)["context"] == [item]
    assert call(user.client, "get_context", conversation_id=conversation, format="items")["context"][-1] == item
    stale = call(user.client, "append_turn", conversation_id=conversation, messages=said, expected_position=1)
    assert (stale["code"], stale["position"]) == ("stale_position", 3)


def test_each_item_of_a_turn_may_have_1_mib(user: User):
    conversation = call(user.client, "start_conversation")["id"]
    large = {"output": "x" * 600 * 1024}
    said = [{"sender_type": "ai", "item": large}, {"sender_type": "ai", "item": large}]
    assert call(user.client, "append_turn", conversation_id=conversation, messages=said)["position"] == 2
    context = call(user.client, "get_context", conversation_id=conversation, format="items")["context"]
    assert context == [large, large]
    asked = {"name": "get_context", "arguments": {"conversation_id": conversation, "format": "items"}}
    answer = rpc(user.client, "tools/call", asked)
    assert len(answer.content) < 1300 * 1024, "not twice"
    assert "Ask for less" in answer.json()["result"]["content"][0]["text"]
    said[1]["item"] = {"output": "x" * 1024 * 1024}
    told = call(user.client, "append_turn", conversation_id=conversation, messages=said)
    assert told["code"] == "validation_failed"
    assert told["errors"] == [{"field": "messages[1].item", "message": "must have at most 1048576 bytes as text"}]
    assert user.client.get(f"/v1/conversations/{conversation}").json()["message_count"] == 2


def test_the_last_change_is_undone_or_the_one_named(user: User):
    call(user.client, "add_task", title="Buy milk")
    call(user.client, "update_task", task_id=1, title="Buy beer")
    change = user.client.get("/v1/audit?table=todos&limit=1").json()["items"][0]["id"]
    call(user.client, "add_task", title="Another")
    assert call(user.client, "undo_change")["code"] == "validation_failed", "an insert"
    assert call(user.client, "undo_change", change_id=change)["changes"]["title"] == ["Buy beer", "Buy milk"]
    call(user.client, "delete_task", task_id=2)
    assert call(user.client, "undo_change")["action"] == "insert"
    assert call(user.client, "get_task", task_id=2)["title"] == "Another"


def test_without_an_id_only_the_user_s_own_change_is_undone(user: User, new_user: Callable[..., User]):
    helper = new_user()
    task = call(user.client, "add_task", title="Buy milk")
    user.client.patch(f"/v1/todos/{task['id']}", json={"assigned_to": str(helper.id)}).raise_for_status()
    call(user.client, "add_task", title="Another")
    call(user.client, "update_task", task_id=2, title="Buy beer")
    helper.client.patch(f"/v1/todos/{task['id']}", json={"status": "in_progress"}).raise_for_status()
    assert call(user.client, "undo_change")["changes"]["title"] == ["Buy beer", "Another"]
    assert call(user.client, "get_task", task_id=1)["status"] == "in_progress", "the assignee's"
    assert call(helper.client, "undo_change")["code"] == "not_found", "it is in the owner's trail"


def test_a_search_finds_what_holds_all_words_wherever_it_is(user: User):
    call(user.client, "add_task", title="Buy MILK", description="two litres")
    call(user.client, "add_task", title="Buy bread")
    conversation = call(user.client, "start_conversation", title="About milk and litres")["id"]
    said = [{"sender_type": "user", "content": "How many litres of Milk?"}, {"sender_type": "ai", "content": "Two."}]
    call(user.client, "append_turn", conversation_id=conversation, messages=said)
    found = call(user.client, "search", q="milk Litres")
    assert [task["number"] for task in found["tasks"]] == [1]
    assert [item["id"] for item in found["conversations"]] == [conversation]
    assert [(item["position"], item["snippet"]) for item in found["messages"]] == [(1, "How many litres of Milk?")]
    assert call(user.client, "search", q=" ")["code"] == "validation_failed"


def test_what_was_added_is_not_undone_and_the_answer_says_what_to_do(user: User):
    call(user.client, "add_task", title="Buy milk")
    told = call(user.client, "undo_change", change_id=user.client.get("/v1/audit?limit=1").json()["items"][0]["id"])
    assert told["errors"][0]["field"] == "change_id"
    assert told["message"] == "change_id: is of something that was made: delete that instead"
    call(user.client, "delete_task", task_id=1)
    assert call(user.client, "undo_change")["action"] == "insert"
    assert call(user.client, "undo_change")["code"] == "validation_failed", "what came back was made, too"
    assert "what the message says" in told["advice"]


def test_tasks_that_others_assigned_are_listed_apart(user: User, new_user: Callable[..., User]):
    helper = new_user()
    task = call(user.client, "add_task", title="Buy milk")
    user.client.patch(f"/v1/todos/{task['id']}", json={"assigned_to": str(helper.id)}).raise_for_status()
    call(helper.client, "add_task", title="Her own")
    assert [item["title"] for item in call(helper.client, "list_tasks")["items"]] == ["Her own"]
    (assigned,) = call(helper.client, "list_tasks", scope="assigned")["items"]
    assert assigned["id"] == task["id"]
    assert call(helper.client, "complete_task", task_id=assigned["id"])["status"] == "completed"
    assert call(helper.client, "list_tasks", scope="assigned", status="pending")["items"] == []


@pytest.mark.parametrize("key", [None, "once"])
def test_the_text_is_as_it_was_sent(user: User, key: str | None):
    arguments = {"title": "Q&A <draft>", **({"idempotency_key": key} if key else {})}
    for _ in range(2):
        answer = rpc(user.client, "tools/call", {"name": "add_task", "arguments": arguments})
        assert not any(character in answer.content for character in b"<>&"), "harmless in a page"
        assert '"Q&A <draft>"' in answer.json()["result"]["content"][0]["text"]


def test_a_repeated_call_may_be_spelled_otherwise(user: User):
    first = call(user.client, "add_task", title="Buy milk", priority="low", idempotency_key="once")
    spellings = (
        '{"idempotency_key": "once", "priority": "low", "title": "Buy milk"}',
        '{"title":"Buy \\u006dilk","priority":"low","due_date":null,"idempotency_key":"once"}',
    )
    for spelling in spellings:
        body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"add_task","arguments":{spelling}}}}}'
        answer = user.client.post("/mcp", content=body, headers={"Content-Type": "application/json"})
        assert answer.json()["result"]["structuredContent"] == first
    metadata = (
        '{"x":1,"y":[0.1,"\\u00e9"]}',
        '{ "y": [0.1, "é"], "x": 1 }',
        '{"x":1,"y":[0.10000000000000000001,"é"]}',
    )
    made = []
    for text in metadata:
        arguments = f'{{"title":"Noted","metadata":{text},"idempotency_key":"noted"}}'
        body = (
            f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"add_task","arguments":{arguments}}}}}'
        )
        answer = user.client.post("/mcp", content=body.encode(), headers={"Content-Type": "application/json"})
        made.append(json.loads(answer.json()["result"]["content"][0]["text"]))
    assert made[0] == made[1]
    assert made[2]["code"] == "idempotency_key_reused", "the database would keep another number"
    told = call(user.client, "add_task", title="Buy beer", idempotency_key="once")
    assert (told["code"], told["errors"][0]["field"]) == ("idempotency_key_reused", "idempotency_key")
    assert len(call(user.client, "list_tasks")["items"]) == 2


def test_an_item_of_null_beside_a_content_is_none(user: User):
    conversation = call(user.client, "start_conversation")["id"]
    said = [{"sender_type": "user", "content": "Hello", "item": None}]
    call(user.client, "append_turn", conversation_id=conversation, messages=said)
    context = call(user.client, "get_context", conversation_id=conversation, format="items")["context"]
    assert context == [{"role": "user", "content": "Hello"}]
    said = [{"sender_type": "user", "content": "x" * 10_001, "item": None}]
    told = call(user.client, "append_turn", conversation_id=conversation, messages=said)
    assert told["errors"] == [
        {"field": "messages", "message": "content must have at most 10000 characters without an item"}
    ]


def test_arguments_that_are_no_object_are_called_so(user: User):
    for arguments in (None, [], "x"):
        answer = rpc(user.client, "tools/call", {"name": "list_tasks", "arguments": arguments})
        told = json.loads(answer.json()["result"]["content"][0]["text"])
        assert told["errors"] == [{"field": "arguments", "message": "must be an object"}]


def test_a_repeated_undo_with_its_key_is_done_once(user: User):
    call(user.client, "add_task", title="Once")
    call(user.client, "update_task", task_id=1, title="Twice")
    undone = call(user.client, "undo_change", idempotency_key="once")
    assert call(user.client, "undo_change", idempotency_key="once") == undone
    assert call(user.client, "get_task", task_id=1)["title"] == "Once"
    call(user.client, "undo_change", idempotency_key="another")
    assert call(user.client, "get_task", task_id=1)["title"] == "Twice", "the undo is a change, too"


def test_nothing_to_undo_is_said(user: User):
    assert call(user.client, "undo_change")["code"] == "not_found"


def test_a_change_that_is_repeated_with_the_header_is_done_once(user: User):
    call(user.client, "add_task", title="Once")

    def ask(tool: str, **arguments: Any) -> Any:
        params = {"name": tool, "arguments": {"task_id": 1, **arguments}}
        return rpc(user.client, "tools/call", params, Idempotency_Key=tool).json()["result"]

    done = {
        "update_task": ask("update_task", title="Twice"),
        "complete_task": ask("complete_task"),
        "delete_task": ask("delete_task"),
    }
    assert not any(result.get("isError") for result in done.values())
    assert ask("update_task", title="Twice") == done["update_task"]
    assert ask("complete_task") == done["complete_task"]
    assert ask("delete_task") == done["delete_task"]


@pytest.mark.parametrize("tool", ["add_task", "start_conversation", "append_turn"])
def test_a_call_that_is_repeated_with_its_key_is_done_once(user: User, tool: str):
    conversation = call(user.client, "start_conversation")["id"]
    arguments: dict[str, Any] = {
        "add_task": {"title": "Once"},
        "start_conversation": {"title": "Once"},
        "append_turn": {
            "conversation_id": conversation,
            "messages": [{"sender_type": "user", "content": "Once"}],
            "context": {"messages": 5},
        },
    }[tool]
    first, second = (call(user.client, tool, **arguments, idempotency_key="once") for _ in range(2))
    assert first == second
    other = call(user.client, tool, **arguments, idempotency_key="another")
    assert other != first
    changed = {"add_task": {"title": "Changed"}, "start_conversation": {"title": "Changed"}}.get(
        tool, {**arguments, "expected_position": 9}
    )
    assert call(user.client, tool, **changed, idempotency_key="once")["code"] == "idempotency_key_reused"


def test_a_call_heeds_the_header_too_where_its_arguments_have_no_key(user: User):
    """As every POST of a user does."""

    def add(header: str, **arguments: str) -> Any:
        params = {"name": "add_task", "arguments": {"title": "Once", **arguments}}
        return rpc(user.client, "tools/call", params, Idempotency_Key=header).json()["result"]

    def link(header: str, conversation: str) -> Any:
        params = {"name": "link_task", "arguments": {"task_id": 1, "conversation_id": conversation}}
        return rpc(user.client, "tools/call", params, Idempotency_Key=header).json()["result"]

    assert add("once") == add("once")
    assert add("once", idempotency_key="another") != add("once")
    told = json.loads(add("once", title="Other")["content"][0]["text"])
    assert told["code"] == "idempotency_key_reused"
    assert json.loads(add("x" * 256)["content"][0]["text"])["code"] == "validation_failed"
    conversation, other = (call(user.client, "start_conversation")["id"] for _ in range(2))
    first = link("linked", conversation)
    assert link("linked", conversation) == first
    call(user.client, "delete_task", task_id=1)
    assert link("linked", conversation) == first
    assert json.loads(link("linked", other)["content"][0]["text"])["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("add_task", {}, "validation_failed"),
        ("add_task", {"title": " "}, "validation_failed"),
        ("add_task", {"title": "x", "user_id": "me"}, "validation_failed"),
        ("add_task", {"title": "x", "idempotency_key": "é" * 256}, "validation_failed"),
        ("complete_task", {"task_id": "one"}, "validation_failed"),
        ("complete_task", {"task_id": 99}, "not_found"),
        ("start_conversation", {"title": "x" * 201}, "validation_failed"),
        ("start_conversation", {"title": " "}, "validation_failed"),
        ("start_conversation", {"metadata": []}, "validation_failed"),
        ("start_conversation", {"metadata": {"a": "x" * 16_384}}, "validation_failed"),
        ("append_turn", {"conversation_id": str(uuid4()), "messages": []}, "validation_failed"),
        ("list_tasks", {"cursor": "x"}, "invalid_cursor"),
        ("get_context", {"conversation_id": str(uuid4())}, "not_found"),
        ("link_task", {"task_id": 99, "conversation_id": str(uuid4())}, "not_found"),
    ],
)
def test_an_error_says_its_code_and_what_to_do(user: User, tool: str, arguments: Any, code: str):
    told = call(user.client, tool, **arguments)
    assert told["code"] == code
    assert told["message"]
    assert told["advice"]
    assert "again in a moment" not in told["advice"], "none of these would be answered otherwise then"


def test_who_can_not_know_whether_it_was_done_is_told_to_look_first() -> None:
    unknown, late = (json.loads(_told(found)) for found in (unknown_outcome("timeout", "Late."), Problem("timeout")))
    assert unknown["advice"].startswith("If you gave an idempotency_key, call again with the same one. Otherwise look")
    assert "again in a moment" in late["advice"]


def test_what_is_not_allowed_from_where_a_task_stands_is_explained(user: User):
    call(user.client, "add_task", title="Old", status="archived")
    assert call(user.client, "complete_task", task_id=1)["code"] == "invalid_transition"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_key_that_reads_may_call_only_what_reads(user: User, client: httpx.Client, tool: str):
    key = user.client.post("/v1/keys", json={"name": "Agent", "scope": "read"}).json()["key"]
    conversation = user.client.post("/v1/conversations", json={}).json()["id"]
    arguments: dict[str, Any] = {
        "task_id": 1,
        "conversation_id": conversation,
        "title": "New",
        "change_id": 999,
        "q": "x",
    }
    arguments["messages"] = [{"sender_type": "user", "content": "Hi"}] if tool == "append_turn" else 5
    wanted = {name: value for name, value in arguments.items() if name in TOOLS[tool].arguments.__struct_fields__}
    answer = rpc(client, "tools/call", {"name": tool, "arguments": wanted}, Authorization=f"Bearer {key}")
    told = json.loads(answer.json()["result"]["content"][0]["text"])
    assert (told.get("code") == "forbidden") == (tool not in READING), told


# A stranger


def foreign(tool: str, owner: User, *, exists: bool) -> Any:
    """Arguments that name what is the owner's, or what nobody has."""
    todo = owner.client.post("/v1/todos", json={"title": "Private"}).json()
    conversation = owner.client.post("/v1/conversations", json={"title": "Private"}).json()["id"]
    owner.client.patch(f"/v1/todos/{todo['id']}", json={"title": "Private too"})
    change = owner.client.get("/v1/audit?table=todos&limit=1").json()["items"][0]["id"]
    ids: dict[str, Any] = {"task_id": todo["id"], "conversation_id": conversation, "change_id": change}
    if not exists:
        ids = {"task_id": str(uuid4()), "conversation_id": str(uuid4()), "change_id": 999_999}
    more: dict[str, Any] = {"title": "Planted"}
    more["messages"] = [{"sender_type": "user", "content": "Hi"}] if tool == "append_turn" else 5
    fields = TOOLS[tool].arguments.__struct_fields__
    return {name: value for name, value in {**ids, **more}.items() if name in fields}


@pytest.mark.parametrize("tool", [name for name in TOOLS if name not in ("list_tasks", "start_conversation", "search")])
def test_a_stranger_s_ids_get_the_answer_of_missing_ones(new_user: Callable[..., User], user: User, tool: str):
    owner = new_user()
    theirs, nobodys = (
        rpc(user.client, "tools/call", {"name": tool, "arguments": foreign(tool, owner, exists=exists)}).json()
        for exists in (True, False)
    )
    assert theirs == nobodys
    assert json.loads(theirs["result"]["content"][0]["text"])["code"] == "not_found"
    assert owner.client.get("/v1/todos").json()["items"][0]["title"] == "Private too"


# The official clients


@pytest.fixture
def key(user: User) -> str:
    return user.client.post("/v1/keys", json={"name": "Agent", "scope": "write"}).json()["key"]


@pytest.mark.parametrize("mode", ["auto", "legacy", NEWEST])
def test_the_official_python_client(server: Server, key: str, mode: str):
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async def talk() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as client,
        ):
            assert client.protocol_version == ("2025-11-25" if mode == "legacy" else NEWEST)
            listed = await client.list_tools()
            assert {tool.name for tool in listed.tools} == TOOLS.keys()
            made = await client.call_tool("add_task", {"title": "Buy milk"})
            assert made.structured_content
            assert made.structured_content["number"] == 1
            refused = await client.call_tool("complete_task", {"task_id": 99})
            assert refused.is_error
            assert "not_found" in str(refused.content)

    asyncio.run(talk())


@pytest.mark.parametrize("key", ["naïve 🙂", "é" * 255, "a\nb", "\ufffd", "x" * 255])
def test_a_key_of_a_call_may_be_any_text(user: User, key: str):
    made = call(user.client, "add_task", title="Once", idempotency_key=key)
    assert call(user.client, "add_task", title="Once", idempotency_key=key) == made
    assert call(user.client, "add_task", title="Other", idempotency_key=key)["code"] == "idempotency_key_reused"
    other = call(user.client, "add_task", title="Once", idempotency_key=key[:-1] + "?")
    assert other["number"] == made["number"] + 1

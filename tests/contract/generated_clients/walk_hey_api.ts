// The README's walk with the client of @hey-api/openapi-ts: `node walk_hey_api.ts URL EMAIL`.
import {
  createConversation,
  createTodo,
  createToken,
  createTurn,
  deleteTodo,
  getContext,
  getTodo,
  listAudit,
  listTodos,
  register,
  updateTodo,
} from "./hey_api/index.ts";
import { client } from "./hey_api/client.gen.ts";

function equal(found: unknown, expected: unknown): void {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
  }
}

const [url = "", email = ""] = (globalThis as any).process.argv.slice(2) as string[];
client.setConfig({ baseUrl: url });
const account = { email, password: "correct horse" };
const { data: user } = await register({ body: account, throwOnError: true });
equal(user.email, email);
const { data: pair } = await createToken({ body: account, throwOnError: true });
client.setConfig({ auth: () => pair.access_token }); // sent where the document says that a token is needed

const { data: todo } = await createTodo({
  headers: { "Idempotency-Key": "todo-1" },
  body: { title: "Buy milk", priority: "urgent", due_date: "2030-01-31T18:00:00+01:00", metadata: { shop: [1, "x"] } },
  throwOnError: true,
});
equal([todo.number, todo.priority, todo.due_date], [1, "urgent", "2030-01-31T17:00:00Z"]);
equal(todo.metadata["shop"], [1, "x"]);

const { data: listed } = await listTodos({
  query: { priority: ["urgent", "high"], status: ["pending"], order: "due_date", limit: 10 },
  throwOnError: true,
});
equal(listed.items.map((item) => item.title), ["Buy milk"]);
equal(listed.next_cursor, null);

const patch = { path: { todo_id: todo.id }, headers: { "If-Match": `"${todo.version}"` } };
const { data: changed } = await updateTodo({ ...patch, body: { status: "completed" }, throwOnError: true });
equal([changed.status, changed.version], ["completed", 2]);
const refused = await updateTodo({ ...patch, body: { status: "archived" } });
equal([refused.response?.status, refused.error?.code], [412, "version_mismatch"]);

const { data: conversation } = await createConversation({ body: { title: "Shopping" }, throwOnError: true });
const path = { conversation_id: conversation.id };
const { data: turn } = await createTurn({
  path,
  body: {
    messages: [
      { sender_type: "user", content: "Remind me to buy milk" },
      { sender_type: "ai", content: "create_todo", message_type: "command", metadata: { title: "Buy milk" } },
    ],
    expected_position: 0,
    context: { messages: 10 },
  },
  throwOnError: true,
});
equal(turn.position, 2);
const { data: context } = await getContext({ path, query: { messages: 1 }, throwOnError: true });
equal(context, [{ role: "assistant", content: "create_todo" }]);

const { data: trail } = await listAudit({ query: { row_id: todo.id, action: "update" }, throwOnError: true });
const before: unknown = trail.items[0]?.changes["status"]?.[0];
equal(before, "pending");

const deleted = await deleteTodo({ path: { todo_id: todo.number }, throwOnError: true });
equal(deleted.response.status, 204);
const missing = await getTodo({ path: { todo_id: todo.id } });
equal([missing.error?.status, missing.error?.code], [404, "not_found"]);
console.log("walked");

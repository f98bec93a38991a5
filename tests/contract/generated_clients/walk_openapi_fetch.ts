// The README's walk with the types of openapi-typescript and the client openapi-fetch: `node walk_openapi_fetch.ts URL`.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

type Problem = components["schemas"]["ProblemDetails"];

function equal(found: unknown, expected: unknown): void {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
  }
}

/** The body of an answer that must be good. */
function body<T>(answer: { data?: T; error?: Problem; response: Response }): T {
  if (answer.data === undefined) throw new Error(`${answer.response.status} ${JSON.stringify(answer.error)}`);
  return answer.data;
}

const [url = "", email = ""] = (globalThis as any).process.argv.slice(2) as string[];
const client = createClient<paths>({ baseUrl: url });
const account = { email, password: "correct horse" };
const user = body(await client.POST("/v1/auth/register", { body: account }));
equal(user.email, email);
const pair = body(await client.POST("/v1/auth/token", { body: account }));
client.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `${pair.token_type} ${pair.access_token}`);
  },
});

const made = await client.POST("/v1/todos", {
  params: { header: { "Idempotency-Key": "todo-1" } },
  body: { title: "Buy milk", priority: "urgent", due_date: "2030-01-31T18:00:00+01:00", metadata: { shop: [1, "x"] } },
});
const todo = body(made);
equal([todo.number, todo.priority, todo.due_date], [1, "urgent", "2030-01-31T17:00:00Z"]);
equal(todo.metadata["shop"], [1, "x"]);

const listed = body(
  await client.GET("/v1/todos", {
    params: { query: { priority: ["urgent", "high"], status: ["pending"], order: "due_date", limit: 10 } },
  }),
);
equal(listed.items.map((item) => item.title), ["Buy milk"]);
equal(listed.next_cursor, null);

const patch = { params: { path: { todo_id: todo.id }, header: { "If-Match": `"${todo.version}"` } } };
const changed = body(await client.PATCH("/v1/todos/{todo_id}", { ...patch, body: { status: "completed" } }));
equal([changed.status, changed.version], ["completed", 2]);
const refused = await client.PATCH("/v1/todos/{todo_id}", { ...patch, body: { status: "archived" } });
equal([refused.response.status, refused.error?.code], [412, "version_mismatch"]);

const conversation = body(await client.POST("/v1/conversations", { body: { title: "Shopping" } }));
const path = { conversation_id: conversation.id };
const turn = body(
  await client.POST("/v1/conversations/{conversation_id}/turns", {
    params: { path },
    body: {
      messages: [
        { sender_type: "user", content: "Remind me to buy milk" },
        { sender_type: "ai", content: "create_todo", message_type: "command", metadata: { title: "Buy milk" } },
      ],
      expected_position: 0,
      context: { messages: 10 },
    },
  }),
);
equal(turn.position, 2);
const context = body(
  await client.GET("/v1/conversations/{conversation_id}/context", { params: { path, query: { messages: 1 } } }),
);
equal(context, [{ role: "assistant", content: "create_todo" }]);

const trail = body(await client.GET("/v1/audit", { params: { query: { row_id: todo.id, action: "update" } } }));
const before: unknown = trail.items[0]?.changes["status"]?.[0];
equal(before, "pending");

const deleted = await client.DELETE("/v1/todos/{todo_id}", { params: { path: { todo_id: todo.number } } });
equal(deleted.response.status, 204);
const missing = await client.GET("/v1/todos/{todo_id}", { params: { path: { todo_id: todo.id } } });
equal([missing.error?.status, missing.error?.code], [404, "not_found"]);
console.log("walked");

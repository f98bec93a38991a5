// The official TypeScript clients: of 2025 (sdk 1) and of both eras (client 2). Arguments: which, the URL, a key.
import assert from "node:assert/strict";

const [which, url, key] = process.argv.slice(2);
const requestInit = { headers: { Authorization: `Bearer ${key}` } };
const info = { name: "walk", version: "1.0.0" };

async function connect() {
  if (which === "sdk") {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const client = new Client(info);
    await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
    return client;
  }
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const versionNegotiation = which === "legacy" ? { mode: "legacy" } : { mode: "auto" };
  const client = new Client(info, { versionNegotiation });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
  return client;
}

const client = await connect();
assert.equal(client.getServerVersion()?.name, "todochat");
const { tools } = await client.listTools();
assert.ok(tools.some((tool) => tool.name === "add_task"));
const made = await client.callTool({ name: "add_task", arguments: { title: "Buy milk" } });
assert.equal(made.structuredContent.title, "Buy milk");
const done = await client.callTool({ name: "complete_task", arguments: { task_id: made.structuredContent.number } });
assert.equal(done.structuredContent.status, "completed");
const refused = await client.callTool({ name: "complete_task", arguments: { task_id: 999 } });
assert.equal(refused.isError, true);
console.log(client.getNegotiatedProtocolVersion?.() ?? "unknown");
await client.close();

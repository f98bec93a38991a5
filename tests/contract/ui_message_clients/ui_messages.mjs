// Messages of Vercel's AI SDK by its own code. `write`: prints those of a run with a tool, a reasoning and a file, as an
// application keeps them. `read`: takes such messages from standard input as the next run does, and prints what its model
// is asked with. The model is scripted.
import { readFileSync } from 'node:fs';
import { convertToModelMessages, readUIMessageStream, stepCountIs, streamText, tool, validateUIMessages } from 'ai';
import { convertArrayToReadableStream, MockLanguageModelV4 } from 'ai/test';
import { z } from 'zod';

const LONG = 'x'.repeat(45_000);
const IMAGE = 'aGk='.repeat(7_500);
const tools = {
  addTask: tool({
    inputSchema: z.object({ title: z.string() }),
    execute: async () => ({ ok: true, rows: [LONG], share: 0.1, odd: '\0 \ud800' }),
  }),
};

function step(reason, ...parts) {
  const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };
  const finish = { type: 'finish', finishReason: { unified: reason, raw: reason }, usage };
  return { stream: convertArrayToReadableStream([{ type: 'stream-start', warnings: [] }, ...parts, finish]) };
}

const model = new MockLanguageModelV4({
  doStream: [
    step(
      'tool-calls',
      { type: 'reasoning-start', id: 'r1' },
      { type: 'reasoning-delta', id: 'r1', delta: '牛乳 …' },
      { type: 'reasoning-end', id: 'r1', providerMetadata: { scripted: { signature: 's' } } },
      { type: 'tool-call', toolCallId: 'call_1', toolName: 'addTask', input: JSON.stringify({ title: '牛乳'.repeat(3000) }) },
    ),
    step(
      'stop',
      { type: 'file', mediaType: 'image/png', data: { type: 'data', data: IMAGE } },
      { type: 'text-start', id: 't1' },
      { type: 'text-delta', id: 't1', delta: 'Done 🙂' },
      { type: 'text-end', id: 't1' },
    ),
  ],
});

if (process.argv[2] === 'write') {
  const asked = { id: 'm1', role: 'user', parts: [{ type: 'text', text: 'Buy milk' }] };
  const run = streamText({ model, tools, messages: await convertToModelMessages([asked]), stopWhen: stepCountIs(3) });
  const stream = run.toUIMessageStream({ generateMessageId: () => 'm2', messageMetadata: () => ({ model: 'scripted' }) });
  let answered;
  for await (const message of readUIMessageStream({ stream, onError: (error) => { throw error; } })) answered = message;
  process.stdout.write([asked, answered].map((message) => JSON.stringify(message)).join('\n'));
} else {
  const messages = await validateUIMessages({ messages: JSON.parse(readFileSync(0, 'utf8')), tools });
  process.stdout.write(JSON.stringify(await convertToModelMessages(messages, { tools })));
}

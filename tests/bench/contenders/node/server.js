// The contender Fastify + node-postgres: a pool, prepared statements, each request one transaction under row security,
// bodies and answers by schema (ajv and fast-json-stringify).
import Fastify from 'fastify'
import fastifyJwt from '@fastify/jwt'
import pg from 'pg'

const pool = new pg.Pool({ max: 10 })
const app = Fastify({ logger: false })
app.register(fastifyJwt, {
  secret: process.env.JWT_SECRET,
  verify: { algorithms: ['HS256'], allowedAud: 'todochat', allowedIss: 'todochat', cache: true },
})
app.addHook('onRequest', (request) => request.jwtVerify())

const text = { type: 'string' }
const textOrNull = { type: ['string', 'null'] }
const time = { type: 'string', format: 'date-time' }
const timeOrNull = { type: ['string', 'null'], format: 'date-time' }
const integer = { type: 'integer' }
const object = { type: 'object', additionalProperties: true }
const todo = {
  type: 'object',
  properties: {
    id: text, number: integer, user_id: text, title: text, description: textOrNull, status: text,
    completed: { type: 'boolean' }, priority: text, due_date: timeOrNull, assigned_to: textOrNull,
    completed_at: timeOrNull, metadata: object, version: integer, created_at: time, updated_at: time,
  },
}
const message = {
  type: 'object',
  properties: {
    id: text, conversation_id: text, user_id: text, position: integer, sender_type: text, role: text,
    sender_id: textOrNull, content: text, message_type: text, metadata: object, created_at: time, updated_at: time,
  },
}
const contextMessage = { type: 'object', properties: { role: text, content: text } }
const list = (items) => ({ type: 'object', properties: { items: { type: 'array', items } } })
const uuid = { type: 'string', format: 'uuid' }
const byId = { type: 'object', properties: { id: uuid } }
const limit = { type: 'integer', minimum: 1, maximum: 200, default: 50 }
const newTodo = {
  type: 'object',
  required: ['title'],
  additionalProperties: false,
  properties: {
    title: { type: 'string', minLength: 1, maxLength: 200 },
    description: { type: 'string', maxLength: 1000, nullable: true },
    status: { enum: ['pending', 'in_progress', 'completed', 'archived'], default: 'pending' },
    priority: { enum: ['low', 'medium', 'high', 'urgent'], default: 'medium' },
    due_date: { type: 'string', format: 'date-time', nullable: true },
    assigned_to: { type: 'string', format: 'uuid', nullable: true },
    completed_at: { type: 'string', format: 'date-time', nullable: true },
    metadata: { type: 'object', default: {} },
  },
}
const newMessage = {
  type: 'object',
  required: ['sender_type', 'content'],
  additionalProperties: false,
  properties: {
    sender_type: { enum: ['user', 'ai', 'system'] },
    content: { type: 'string', minLength: 1, maxLength: 10000 },
    message_type: { enum: ['text', 'command', 'response', 'error'], default: 'text' },
    metadata: { type: 'object', default: {} },
  },
}
const newTurn = {
  type: 'object',
  required: ['messages', 'context'],
  additionalProperties: false,
  properties: {
    messages: { type: 'array', minItems: 1, maxItems: 100, items: newMessage },
    context: {
      type: 'object',
      required: ['messages'],
      properties: { messages: { type: 'integer', minimum: 0, maximum: 200 } },
    },
  },
}

const TODO = 'id, number, user_id, title, description, status, completed, priority, due_date, assigned_to, ' +
  'completed_at, metadata, version, created_at, updated_at'
const MESSAGE = 'id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, ' +
  'metadata, created_at, updated_at'

async function transaction(request, work) {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    await client.query({
      name: 'context', text: "SELECT set_config('app.user_id', $1, true)", values: [request.user.sub],
    })
    const result = await work(client, request.user.sub)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

const run = async (client, name, text, values) => (await client.query({ name, text, values })).rows

app.get('/v1/todos/:id', { schema: { params: byId, response: { 200: todo } } }, async (request, reply) => {
  const rows = await transaction(request, (client, userId) =>
    run(client, 'get', `SELECT ${TODO} FROM todos WHERE user_id = $1 AND id = $2`, [userId, request.params.id]))
  return rows[0] ?? reply.code(404).send({ error: 'not found' })
})

const listQuery = { type: 'object', required: ['status'], properties: { status: text, limit } }
app.get('/v1/todos', { schema: { querystring: listQuery, response: { 200: list(todo) } } }, async (request) => {
  const items = await transaction(request, (client, userId) =>
    run(client, 'list',
      `SELECT ${TODO} FROM todos WHERE user_id = $1 AND status = $2 ORDER BY created_at DESC, id DESC LIMIT $3`,
      [userId, request.query.status, request.query.limit]))
  return { items }
})

app.post('/v1/todos', { schema: { body: newTodo, response: { 201: todo } } }, async (request, reply) => {
  const given = request.body
  const rows = await transaction(request, (client, userId) =>
    run(client, 'create',
      'INSERT INTO todos (user_id, title, description, status, priority, due_date, assigned_to, completed_at, ' +
      `metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING ${TODO}`,
      [userId, given.title, given.description, given.status, given.priority, given.due_date, given.assigned_to,
        given.completed_at, given.metadata]))
  return reply.code(201).send(rows[0])
})

const add = async (client, userId, conversationId, given) => (await run(client, 'append',
  'INSERT INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata) ' +
  `VALUES ($1, $2, $3, $4, $5, $6) RETURNING ${MESSAGE}`,
  [userId, conversationId, given.sender_type, given.content, given.message_type, given.metadata]))[0]

const appending = { schema: { params: byId, body: newMessage, response: { 201: message } } }
app.post('/v1/conversations/:id/messages', appending, async (request, reply) => {
  const row = await transaction(request, (client, userId) => add(client, userId, request.params.id, request.body))
  return reply.code(201).send(row)
})

const lastQuery = { type: 'object', properties: { limit, order: text } }
const reading = { schema: { params: byId, querystring: lastQuery, response: { 200: list(message) } } }
app.get('/v1/conversations/:id/messages', reading, async (request) => {
  const items = await transaction(request, (client, userId) =>
    run(client, 'last',
      `SELECT ${MESSAGE} FROM messages WHERE user_id = $1 AND conversation_id = $2 ORDER BY position DESC LIMIT $3`,
      [userId, request.params.id, request.query.limit]))
  return { items }
})

const turn = {
  type: 'object',
  properties: { messages: { type: 'array', items: message }, context: { type: 'array', items: contextMessage } },
}
app.post('/v1/conversations/:id/turns', {
  schema: { params: byId, body: newTurn, response: { 201: turn } },
}, async (request, reply) => {
  const answer = await transaction(request, async (client, userId) => {
    const messages = []
    for (const given of request.body.messages) messages.push(await add(client, userId, request.params.id, given))
    const context = await run(client, 'context of a turn',
      'SELECT role, content FROM messages WHERE user_id = $1 AND conversation_id = $2 ORDER BY position DESC LIMIT $3',
      [userId, request.params.id, request.body.context.messages])
    return { messages, context: context.reverse() }
  })
  return reply.code(201).send(answer)
})

await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })

-- Statements for DBAs to copy. Tests run each of them.

-- A role that sees every row and changes none; made once, by a superuser (on Neon, by a role that was made in its
-- console). It reads password hashes, too. What follows is for it, unless it says otherwise.
CREATE ROLE todochat_dba LOGIN BYPASSRLS PASSWORD 'choose one' IN ROLE pg_read_all_data, pg_monitor;

-- One user's rows.
SELECT t.number, t.title, t.status, t.updated_at
FROM todos AS t
INNER JOIN users AS u ON u.id = t.user_id
WHERE u.email = 'ada@example.com'
ORDER BY t.number;

-- The same for logins that row security binds, which are those that migrate and serve: they see the rows of the user
-- that a transaction is for. Name the user in the query, too: the login that migrates also sees what functions of
-- todochat_owner look for, such as everybody's todos that are assigned to somebody.
BEGIN;
SET LOCAL app.user_id = '01900000-0000-7000-8000-000000000000';
SELECT t.number, t.title, t.status, t.updated_at
FROM todos AS t
WHERE t.user_id = '01900000-0000-7000-8000-000000000000'
ORDER BY t.number;
COMMIT;

-- How many rows there are, for sure: a login that row security binds is refused then, and counts nothing wrong.
SET row_security = off;
SELECT
    (SELECT count(*) FROM users) AS users,
    (SELECT count(*) FROM todos) AS todos,
    (SELECT count(*) FROM conversations) AS conversations,
    (SELECT count(*) FROM messages) AS messages,
    (SELECT count(*) FROM audit_log) AS audit_log;

-- What takes long now, by the name that the query has in sql/queries.
SELECT
    a.pid,
    clock_timestamp() - a.query_start AS since,
    a.state,
    a.wait_event,
    substring(a.query FROM '/\* (\w+) \*/') AS query
FROM pg_stat_activity AS a
WHERE a.application_name = 'todochat' AND a.state <> 'idle'
ORDER BY a.query_start;

-- What took longest in all, where the extension pg_stat_statements is.
SELECT
    substring(s.query FROM '/\* (\w+) \*/') AS query,
    s.calls,
    round(s.mean_exec_time::numeric, 3) AS mean_ms,
    round(s.total_exec_time::numeric) AS total_ms
FROM pg_stat_statements AS s
WHERE s.dbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
ORDER BY s.total_exec_time DESC
LIMIT 20;

-- How big each table is with its indexes, about how many rows it has, and how long it keeps them; for any login.
SELECT
    s.relname AS table_name,
    pg_size_pretty(pg_total_relation_size(s.relid)) AS size,
    s.n_live_tup AS about_rows,
    coalesce(k.kept, 'until its user goes, or deletes it') AS kept
FROM pg_stat_user_tables AS s
LEFT JOIN (
    VALUES
    ('audit_log', '365 days, when todochat prune runs (--audit-days)'),
    ('idempotency_keys', '24 hours, when todochat prune runs'),
    ('conversations', 'with messages and links, until its user deletes it, or todochat prune --conversation-days'),
    ('sign_in_attempts', 'minutes: sign-ins remove what is spent'),
    ('ended_identities', '31 days: sign-ins remove what is older')
) AS k (table_name, kept) ON k.table_name = s.relname
WHERE s.schemaname = 'public'
ORDER BY pg_total_relation_size(s.relid) DESC;

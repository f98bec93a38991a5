-- Settings of the session, whatever the login or the database has as its defaults: no limit to how long a statement or
-- the transaction takes. A setting that this version of PostgreSQL does not know is left out.

SELECT set_config(w.name, w.setting, false)
FROM (
    VALUES
        ('timezone', 'UTC'),
        ('statement_timeout', '0'),
        ('transaction_timeout', '0'),
        ('lock_timeout', '10s'),
        ('idle_in_transaction_session_timeout', '60s'),
        ('work_mem', '64MB'),
        ('default_transaction_read_only', 'off')
) AS w (name, setting)
INNER JOIN pg_settings AS s USING (name);

"""The way to PostgreSQL: a pool of connections, transactions of one round trip, and the queries of the .sql files.

`loading` reads the files, `queries` is how Python declares them, `caller` runs them for a user; `database` runs
transactions and decides what may be tried again, `pool` lends connections, `connection` is one of them, `statements` is
what they hand to each other.
"""

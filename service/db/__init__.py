"""The way to PostgreSQL: a pool, and the one function that runs a transaction.

A transaction is one network round trip: ``BEGIN``, the context, every statement and ``COMMIT`` leave in one write as
a libpq pipeline and their results come back together. Statements are prepared once per connection, under their name.

`database` runs transactions and decides what may be tried again, `pool` lends connections, `link` is one of them,
`statements` is what they hand to each other.
"""

from service.db.database import TRANSACTION_SECONDS, Database, Held
from service.db.statements import SESSION, Context, Prepared, Result, Row, StatementFailed, Step, Value

__all__ = [
    "SESSION",
    "TRANSACTION_SECONDS",
    "Context",
    "Database",
    "Held",
    "Prepared",
    "Result",
    "Row",
    "StatementFailed",
    "Step",
    "Value",
]

"""Demo data: one believable account to look around in, or as many rows as a benchmark asks for.

`story` tells the account's todos and conversations; `rows` makes any number of rows from a seed, with the texts of
`words`; `copy` writes them as a superuser, fast, and `insert` as anybody else; `fill` is what the command calls.
"""

from service.commands.demo.fill import PASSWORD, DemoError, Filled, fill_account, fill_many
from service.commands.demo.rows import Size, World

__all__ = ["PASSWORD", "DemoError", "Filled", "Size", "World", "fill_account", "fill_many"]

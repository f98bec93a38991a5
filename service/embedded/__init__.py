"""The PostgreSQL that ships as a wheel, for development and tests only.

`server` starts and stops it, `keeper` is its parent process, `cluster` makes its folders, `programs` finds the
binaries, `account` is about not running as root, and `development` makes the database that `make run` serves when no
other is configured.
"""

from service.embedded.account import EmbeddedPostgresError
from service.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

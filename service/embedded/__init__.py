"""The PostgreSQL that ships as a wheel, for development and tests only.

It is our own because no library does all of this: share one server between processes, end it with the last of them
however that ends, run for root, and never signal a process that is not ours (the wheel's own Python code and its kin
kill whatever process a stale pid file names, and leave a server running when its owner is killed).

`server` starts, joins and stops it, `keeper` is the parent process of PostgreSQL, `programs` finds the binaries.
"""

from service.embedded.programs import EmbeddedPostgresError
from service.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

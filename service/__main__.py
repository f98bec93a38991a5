"""`python -m service`: the command line of main, once this Python is known to be able to read it."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older one would only show a SyntaxError
    sys.exit("todochat: needs Python 3.11 or later, this is %d.%d" % sys.version_info[:2])  # noqa: UP031 - as above

from service.commands.main import main

main(prog_name="todochat")

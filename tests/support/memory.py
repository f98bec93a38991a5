"""What a process takes of the machine's memory."""

import re
from pathlib import Path


def most_memory(process: int) -> int:
    """The most that the process has taken so far, in KiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1])

"""What Linux says of a process."""

from pathlib import Path


def stat_of(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third one on: state, parent and so on. Raises OSError for none."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

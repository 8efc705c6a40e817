"""Whether a directory lives in memory: on a disk, the kernel stalls whoever writes to a page of a file while it is written back."""

from __future__ import annotations

import os
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_TABLE = Path("/proc/self/mountinfo")


def filesystem_of(path: str, table: Path = _TABLE) -> str | None:
    """The kind of file system that ``path`` is on, as Linux names it; ``None`` where that cannot be told."""
    try:
        device = Path(path).stat().st_dev
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        fields, _, kind = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return kind.split(maxsplit=1)[0]
    return None


def in_memory(filesystem: str) -> bool:
    """Whether files there are never written to a disk."""
    return filesystem in _IN_MEMORY

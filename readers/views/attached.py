"""Which other processes have an arena mapped, as far as this process may look.

Readers leave no trace in shared memory: the kernel alone knows them.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mappers:
    """Processes that map a segment, ascending; `hidden` others could not be looked into."""

    pids: tuple[int, ...]
    hidden: int


def mappers(segment: str) -> Mappers | None:
    """Every process but this one that maps what this one maps from /dev/shm by that name, with slash.

    None when this process does not map it itself, or has no /proc to look at. Processes of other users,
    and other pid namespaces, are not seen.
    """
    try:
        mark = _mark_of(segment)
        names = os.listdir("/proc") if mark else []
    except OSError:
        return None
    if mark is None:
        return None
    found, hidden = [], 0
    for name in names:
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/maps", "rb") as file:
                if mark in file.read():
                    found.append(int(name))
        except PermissionError:
            hidden += 1
        except OSError:  # it has ended
            continue
    return Mappers(tuple(sorted(found)), hidden)


def _mark_of(segment: str) -> bytes | None:
    """Device and inode of the segment as a line of maps has them; so a removed name does no harm."""
    path = b" /dev/shm" + segment.encode()
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            text = line.rstrip(b"\n").removesuffix(b" (deleted)")
            if text.endswith(path):
                _, _, _, device, inode = text.split()[:5]
                return b" " + device + b" " + inode + b" "
    return None

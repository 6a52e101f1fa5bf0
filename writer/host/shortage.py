"""What to do when the system has no more of something: descriptors, memory, threads, space."""

import asyncio
import errno
import logging
import os
import re
import resource
from typing import Any

log = logging.getLogger(__name__)


FILES_NEEDED = 24  # a writer with a node and a metrics port has 20 open when it is live
FILES_WANTED = 256  # with room for connections, lists and checkpoints

_REMEDIES = {
    errno.ENFILE: "the machine has no more file descriptors: raise fs.file-max",
    errno.ENOMEM: "there is no more memory: raise its limit (ulimit -v, MemoryMax), or free some",
    errno.ENOBUFS: "there is no more memory for sockets: free some",
    errno.ENOSPC: "there is no more space: free some, or choose another folder",
    errno.EDQUOT: "this user may use no more space: free some, or choose another folder",
}


def check_files() -> None:
    """OSError when this process may not open as many files as any run needs; it is refused whole then,
    rather than in a place where it cannot say why."""
    taken: list[int] = []
    try:
        while len(taken) < FILES_NEEDED:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for each in taken:
            os.close(each)


def remedy_of(error: BaseException) -> str | None:
    """What to do about an error that says that something is used up; None when it says no such thing."""
    if isinstance(error, MemoryError) or (
        # what the dynamic loader says when a library has no room
        isinstance(error, ImportError)
        and re.search("failed to map segment|cannot allocate memory", str(error), re.IGNORECASE)
    ):
        return _REMEDIES[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no thread can be started: raise ulimit -u (TasksMax) or the limit of memory"
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.errno == errno.EMFILE:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(FILES_WANTED, 2 * soft)
        remedy = f"raise ulimit -n (LimitNOFILE=) to {wanted}"
        if 0 <= hard < wanted:  # -1 is no limit
            remedy = f"the hard limit is {hard}: raise that (LimitNOFILE=, or ulimit -Hn by root)"
        return f"this process may open {soft} files, {wanted} are enough: {remedy}"
    return _REMEDIES.get(error.errno)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of an event loop: a shortage is a line, anything else what it always was.

    The loop itself tries to accept again after a second.
    """
    error = context.get("exception")
    remedy = None if error is None else remedy_of(error)
    if remedy is None:
        loop.default_exception_handler(context)
        return
    log.error("event=out_of_resources reason=%r remedy=%r", context.get("message", ""), remedy)

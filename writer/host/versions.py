"""What tells one version of a file from the next."""

import os


def file_signature(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Of the file that is there now; None while there is none."""
    try:
        return signature_of(os.stat(path))
    except OSError:
        return None


def signature_of(found: os.stat_result) -> tuple[int, int, int]:
    """The same for a file whose state was asked already."""
    return found.st_ino, found.st_size, found.st_mtime_ns

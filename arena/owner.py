"""Which user something belongs to: who may write a segment, or answers on a socket, is believed."""

import os
import pwd

from arena.errors import OwnerMismatch


def user_id(user: str | int | None) -> int:
    """Numeric user of a name, a number, or decimal digits; None is this process's effective one.

    ValueError when there is no such user.
    """
    if user is None:
        return os.geteuid()
    if isinstance(user, int):
        if isinstance(user, bool) or not 0 <= user < 0xFFFF_FFFF:
            raise ValueError(f"{user!r} is no user id")
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        if user.isascii() and user.isdecimal():
            return user_id(int(user))
        raise ValueError(f"no user named {user!r}") from None


def shown_user(uid: int) -> str:
    """`uid 1000 (name)`, without the name where this machine has none for it."""
    try:
        return f"uid {uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return f"uid {uid}"


def check_owner(name: str, found: int, expected: int, *, writes: bool) -> None:
    """OwnerMismatch unless segment `name`, owned by user `found`, belongs to `expected`."""
    if found == expected:
        return
    remedy = (
        f"a writer takes over nothing of another user's: let that user stop its writer and remove "
        f"/dev/shm{name}*, or choose another name"
        if writes
        else f"who owns a segment decides what is read from it; if that is the writer you mean, say "
        f"so with owner={found} (--owner {found})"
    )
    raise OwnerMismatch(
        f"{name} belongs to {shown_user(found)}, expected is {shown_user(expected)}: {remedy}",
        name=name,
        found=found,
        expected=expected,
    )

"""Users and groups of this machine, by name or number (getpwnam(3), getgrnam(3))."""

from __future__ import annotations

import grp
import pwd
from contextlib import suppress


def resolve_ids(user: str | None, group: str | None) -> tuple[int, int]:
    """Return the uid and gid of a user and group; -1 for None. Raises KeyError.

    A user without a group has its primary group.
    """
    uid = gid = -1
    if user is not None:
        entry = look_up_user(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise KeyError(f"there is no group {group!r}") from None
    return uid, gid


def look_up_user(user: str) -> pwd.struct_passwd:
    """Look up a user by name or number. Raises KeyError."""
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise KeyError(f"there is no user {user!r}") from None


def resolve_uid(user: str) -> int:
    """Return the uid of a user; a number needs no user that has it. Raises KeyError."""
    return int(user) if user.isdecimal() else look_up_user(user).pw_uid


def find_user_name(uid: int) -> str | None:
    """Return the name of a user by its uid; None if there is no such user."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return None

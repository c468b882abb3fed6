"""Applies a plugin's limits, user and cgroup to this process, then executes the plugin.

    python -I -S launcher_main.py SETTINGS PROGRAM ARGUMENT...

SETTINGS is JSON: the fields of `ContainmentConfig`, `cgroup`, and perhaps `descriptors`, a list of
the current number of an inherited descriptor and that which it is to have, and `listens`, which
says that one of them is a listening socket. Standard library only.

The limits apply before the program's first instruction, which the mesh could not ensure by setting
them from outside. A preexec_fn could, but makes every start ten times as slow.
"""

import fcntl
import grp
import json
import os
import pwd
import resource
import signal
import sys
from typing import Any

_RLIMITS = {
    "nofile": resource.RLIMIT_NOFILE,
    "address_space": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "core": resource.RLIMIT_CORE,
}


FIRST_LISTEN_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def drop_privileges(user: str | None, group: str | None) -> None:
    """Change from root to a user and group, given by name or number."""
    if user is not None:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        gid = entry.pw_gid if group is None else resolve_gid(group)
        os.initgroups(entry.pw_name, gid)
        os.setgid(gid)
        os.setuid(entry.pw_uid)
    elif group is not None:
        gid = resolve_gid(group)
        os.setgroups([gid])
        os.setgid(gid)


def resolve_gid(group: str) -> int:
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def renumber_descriptors(moves: list[list[int]]) -> None:
    """Give inherited descriptors other numbers; the mesh's pidfd makes room for them.

    `moves`: pairs of the current number and that which it is to have.
    """
    wanted = [number for _, number in moves]
    free = max(wanted) + 1
    pidfd = os.environ.get("MESH_PIDFD", "")
    if pidfd.isdecimal() and int(pidfd) in wanted:
        os.environ["MESH_PIDFD"] = str(fcntl.fcntl(int(pidfd), fcntl.F_DUPFD, free))
    # First to numbers that none of them wants.
    copies = [fcntl.fcntl(current, fcntl.F_DUPFD, free) for current, _ in moves]
    for current, _ in moves:
        os.close(current)
    for copy, number in zip(copies, wanted, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def apply_settings(settings: dict[str, Any]) -> None:
    if settings["cgroup"] is not None:
        with open(os.path.join(settings["cgroup"], "cgroup.procs"), "w") as file:
            file.write("0")
    for name, value in settings["rlimits"].items():
        if value is not None:
            # SIGXCPU comes at the soft limit, SIGKILL at the hard one.
            hard = value + 1 if name == "cpu" else value
            resource.setrlimit(_RLIMITS[name], (value, hard))
    if settings["nice"] is not None:
        os.setpriority(os.PRIO_PROCESS, 0, settings["nice"])
    if settings["umask"] is not None:
        os.umask(settings["umask"])
    drop_privileges(settings["user"], settings["group"])


def reset_signals() -> None:
    """Restore the default disposition of each signal, and unblock all of them.

    Ignored signals would stay ignored after execve(2), and this interpreter ignores SIGPIPE and
    SIGXFSZ.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    text, *command = sys.argv[1:]
    try:
        settings = json.loads(text)
        if moves := settings.get("descriptors"):
            renumber_descriptors(moves)
        if settings.get("listens"):
            # As sd_listen_fds(3) expects it; execve(2) keeps the pid.
            os.environ["LISTEN_PID"] = str(os.getpid())
        apply_settings(settings)
    except (OSError, ValueError, KeyError) as exc:
        sys.exit(f"could not be set up: {exc}")
    reset_signals()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as exc:
        print(f"{command[0]} could not be executed: {exc.strerror}", file=sys.stderr)
        # Shells use the same statuses; the mesh then finds out the reason.
        sys.exit(127 if isinstance(exc, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()

"""The script that prepares a child process and then runs a PostgreSQL program by `exec`. It runs as `python -I -S`.

It gives up root and ties the program's life to its parent's. Doing this here, after an ordinary spawn, and
not in a `preexec_fn`, keeps Python code from running between fork and exec of a process that has threads.

PostgreSQL refuses to run as root, and root's files often lie under folders only root may enter (a virtual
environment under `/root`, a data directory made by `mktemp -d`). So the unprivileged user keeps one
capability to pass through folders; no file is copied and no folder is opened to everyone. That capability
also reads files, which is why the supervisor keeps the server's data and socket behind a folder only root
may enter.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
NO_USER = -1
NO_CAPABILITY = -1


def main(arguments: list[str]) -> None:
    """Becomes the program whose command line follows the parent's pid, the uid, gid and capability."""
    parent, uid, gid, capability = (int(number) for number in arguments[:4])
    program = arguments[4:]
    if uid != NO_USER:
        _become(uid, gid, keep=capability)
    elif sys.platform == "linux" and program[0].endswith("/initdb"):
        _be_somebody()
    if sys.platform == "linux":
        # After the change of user, which clears it. SIGINT is PostgreSQL's fast shutdown.
        _prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:  # it died before it could be watched
        raise SystemExit("the parent process is gone")
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on
    os.execv(program[0], program)  # noqa: S606  # no shell is wanted


def _become(uid: int, gid: int, *, keep: int) -> None:
    if keep != NO_CAPABILITY:
        # Else access(2), by which PostgreSQL looks for its own programs, would pass over the capability.
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if keep != NO_CAPABILITY:
        _keep_only(keep)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep)


def _be_somebody() -> None:
    """Gives initdb a user with a name, which it looks up though it is told another: containers may run us as any uid.

    In a user namespace of its own it is `nobody`; its files are ours all the same. Where that is not allowed, initdb
    says what it lacks.
    """
    me = os.getuid()
    try:
        pwd.getpwuid(me)
    except KeyError:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) == 0:
            users = os.open("/proc/self/uid_map", os.O_WRONLY)
            os.write(users, b"%d %d 1" % (pwd.getpwnam("nobody").pw_uid, me))
            os.close(users)


def _keep_only(capability: int) -> None:
    """Capability sets with this one bit, effective, permitted and inheritable (capset(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if ctypes.CDLL(None, use_errno=True).prctl(ctypes.c_int(option), *padded) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main(sys.argv[1:])

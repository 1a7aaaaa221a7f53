"""Becomes another program that dies with its parent, as another user when asked: `launch.py PARENT SIGNAL UID GID -- ARGV...`.

A separate program, started with `-I -S`, because code between fork and exec deadlocks beside gRPC's threads. The death signal is set
after the change of user, which clears it. UID -1 keeps the user. The program may open as many files as the machine lets it.
Exit code 127: the program cannot be executed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Does not return unless something is wrong."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    parent, signal_number, uid, gid = (int(text) for text in arguments[:4])
    argv = arguments[5:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        return 1  # the parent died before the signal was set
    try:
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot execute {argv[0]}: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

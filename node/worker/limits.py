"""What a runner takes from itself before it loads a line of a user's code."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def confine(*, parent_pid: int, address_space_bytes_max: int, open_files_max: int) -> None:
    """Set the limits of this process for good; its children inherit them.

    Raises OSError when the system refuses one, ProcessLookupError when the parent is already gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, int(signal.SIGKILL)), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    if os.getppid() != parent_pid:  # it died before the signal was armed
        raise ProcessLookupError("the node that started this runner is gone")
    for kind, wanted in (
        (resource.RLIMIT_AS, address_space_bytes_max),
        (resource.RLIMIT_NOFILE, open_files_max),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower_limit(kind, wanted)


def _lower_limit(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(kind, (wanted, wanted))

"""Children of the supervisor never outlive it, not even when it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "FRONTIER_PARENT"
"""Environment variable with the process id of the supervisor."""

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child of the supervisor: ends this process when the supervisor ends.

    A supervisor that can still act sends SIGTERM first. When it was killed nobody is left to report to, and the queue
    recovers what was being worked on, so the end is at once.
    """
    text = os.environ.pop(PARENT, "")
    if not text.isdigit():
        return
    parent = int(text)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the signal was asked for
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

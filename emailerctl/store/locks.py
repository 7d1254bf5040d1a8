"""Lock files of consumers, beside the store: they tell at once that a process is gone.

The kernel frees a lock with its process, so whoever sees a free one may void the leases of the
dead consumer without waiting for them to end.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from emailerctl.models.ids import parse_public, to_public

CONSUMER = "con"
_NEW_S = 60.0  # a file this young may belong to a consumer that is about to lock it


def find_lock(folder: Path, consumer_id: int) -> Path:
    """Return where the lock file of a consumer is."""
    return folder / to_public(CONSUMER, consumer_id)


def is_lock_free(folder: Path, consumer_id: int) -> bool:
    """Return whether the consumer's process is gone, as its lock file tells.

    A missing file means the same: a consumer makes it before it registers.
    """
    try:
        descriptor = os.open(find_lock(folder, consumer_id), os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def forget_dead(wake: Path, locks: Path, *, now_s: float) -> None:
    """Remove the files that dead consumers left: their lock is free and they are not new."""
    for folder in (wake, locks):  # sockets first: a lock tells whose they are
        for path in folder.iterdir() if folder.is_dir() else ():
            consumer_id = parse_public(CONSUMER, path.name)
            with contextlib.suppress(FileNotFoundError):
                is_old = now_s - path.stat().st_mtime > _NEW_S
                if consumer_id and is_old and is_lock_free(locks, consumer_id):
                    path.unlink()

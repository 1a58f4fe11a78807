"""One process at a time on a run or a tile set."""

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import time

from filelock import FileLock, Timeout

from utils.files import missing_folders

LOCK = ".lock"
# What a file system without locks answers.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
PATIENCE = .5  # seconds, for a lock that is just being let go


@contextlib.contextmanager
def locked(folder, advice):
    """Holds the lock of `folder`, which is made if it is not there and, where nothing was put into
    it, removed at the end.

    The system lets a lock go when its process ends, however it ends; the file that a killed process
    leaves blocks nobody. Raises OSError, which says who holds it and since when and ends with
    `advice`. A file system without locks is told in a warning.
    """
    path, made = os.path.join(folder, LOCK), list(missing_folders(folder))
    lock = FileLock(path, timeout=PATIENCE, on_acquired=_sign)
    try:
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(folder, exist_ok=True)
                stack.enter_context(lock)
                # While it is still held: whoever waits for this file looks whether it is there.
                stack.callback(_remove, os.remove, path)
            except Timeout:
                raise OSError(f"{folder}: in use by {_holder(path)}; {advice}") from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise OSError(f"{folder}: cannot be written to ({error.strerror}); change its "
                                  "permissions or choose another") from None
                print(f"warning: {folder}: its file system has no locks ({error.strerror}), so let "
                      "no other process write there")
            yield
    finally:
        for place in made:
            _remove(os.rmdir, place)


def _sign(descriptor):
    """Writes into the lock's open file who holds it; on a full disk it stays empty."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "command": shlex.join(sys.argv),
              "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(holder).encode())


def _holder(path):
    """Who holds the lock, in words."""
    try:
        with open(path, encoding="utf-8") as file:
            holder = json.load(file)
        return "process {pid} on host {host} since {since} ({command})".format(**holder)
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _remove(remove, path):
    with contextlib.suppress(OSError):
        remove(path)

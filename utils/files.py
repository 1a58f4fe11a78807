"""Writing whole files or none: a temporary name first, then a rename."""

import contextlib
import errno
import functools
import os
import re
import shutil
import socket
import tempfile

# What to do, by what the system says. (TensorFlow passes its words on, not its number.)
REMEDIES = {
    "free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "change its permissions": (errno.EACCES, errno.EPERM, errno.EROFS),
    "it was removed or renamed meanwhile: leave it alone": (errno.ENOENT, errno.ENOTDIR)}


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary name beside `path` to write to; renamed to `path` if all went well.

    The temporary name keeps the extension, since encoders choose by it. OSErrors of the system
    name `path`; those without an errno are of our own and name their file already.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".partial-{os.getpid()}@{socket.gethostname()}@{name}")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        _remove_left_behind(folder)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        reason = error.strerror or str(error)
        raise OSError(f"{path}: could not be written ({reason}); {remedy(reason)} or choose "
                      "another folder") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def check_plain(path):
    """Raises ValueError for a pipe or a device: it may have no end, or nobody may write to it."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f"{path}: a pipe or a device; give a plain file")


def write_bytes(path, data):
    """Writes `data` (bytes) to `path`, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path, text):
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def remedy(reason):
    """What to do where the system says `reason`, for the end of an error's line."""
    return next((advice for advice, numbers in REMEDIES.items()
                 if any(os.strerror(number) in reason for number in numbers)), "check the disk")


def missing_folders(folder):
    """`folder` and those above it that are not there, from the lowest up."""
    while not os.path.lexists(folder):
        yield folder
        folder = os.path.dirname(folder) or os.curdir


@functools.cache  # once a process: an --out may hold a million maps
def _remove_left_behind(folder):
    """Removes the temporary files in `folder` of processes of this host that are no more. (Those of
    another host may well be written now. Earlier versions did not note the host.)"""
    if os.name != "posix":
        return  # elsewhere signal 0 is no question
    own = re.compile(rf"\.partial-(\d+)(?:@{re.escape(socket.gethostname())}@|-)")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder or "."):
            found, path = own.match(name), os.path.join(folder, name)
            if found and not _is_alive(int(found[1])):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def check_writable(folder, what, advice):
    """Raises OSError where `what` could not be written to `folder`, which need not be there; leaves
    no trace. advice: the end of the error's line."""
    missing = [*missing_folders(folder)]
    place = (os.path.dirname(missing[-1]) or os.curdir) if missing else folder
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"{folder}: {what} cannot be written there ({place}: {error.strerror}); "
                      f"{advice}") from None


def remove_unfinished(folder, prefix):
    """Removes the subfolders called `prefix`... that a killed run left in `folder`, if any."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(prefix):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def replace_set(target, source, folders, files):
    """Moves `folders` and `files` (names, may hold /) from `source` to `target`, by renames only.

    Both lie on one disk. What they replace goes to `source`/replaced, for the caller to remove.
    The old files go first and the new ones come last, in their order: a replacement cut short
    leaves folders without `files` rather than files that describe other folders. Where one cannot
    be moved, as to or from another disk, all are moved back.
    """
    moves = []
    for name in [*reversed(files), *folders]:
        if os.path.exists(os.path.join(target, name)):
            moves.append((os.path.join(target, name), os.path.join(source, "replaced", name)))
        if name in folders:
            moves.append((os.path.join(source, name), os.path.join(target, name)))
    moves += [(os.path.join(source, name), os.path.join(target, name)) for name in files]
    with contextlib.ExitStack() as back:
        for path, new_path in moves:
            os.makedirs(os.path.dirname(new_path), exist_ok=True)
            os.rename(path, new_path)
            back.callback(os.rename, new_path, path)
        back.pop_all()


def relative_path(path, folder):
    """`path` as seen from `folder`, either of which may lie behind a symbolic link, with forward
    slashes."""
    place, name = os.path.split(path)
    place = os.path.relpath(os.path.realpath(place), os.path.realpath(folder))
    return os.path.normpath(os.path.join(place, name)).replace(os.sep, "/")

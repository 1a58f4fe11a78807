"""A checkpoint from the network, by Keras's get_file; checked before it gets its name."""

import contextlib
import errno
import glob
import gzip
import os
import socket
import tarfile
import tempfile
import zlib

from utils.files import check_writable

TIMEOUT = 30  # seconds without a byte


def fetch_checkpoint(url, folder):
    """Path prefix of the TensorFlow checkpoint in the .tar.gz at `url`, unpacked to `folder`.

    Where `folder` is there already nothing is fetched or written; TensorFlow checks each tensor's
    own checksum when it reads it. Raises OSError, ValueError naming the file and what to do.
    """
    if not os.path.isdir(folder):
        home = os.path.dirname(folder)
        check_writable(home, "the checkpoint", "change its permissions, or name another folder in "
                       "KERAS_HOME")
        os.makedirs(home, exist_ok=True)
        # In a folder of its own, so that what a broken download leaves is never taken for whole.
        with tempfile.TemporaryDirectory(dir=home, prefix=".partial-") as unfinished:
            unpacked = _fetch_and_unpack(url, unfinished)
            if len(_indices(unpacked)) != 1:
                raise ValueError(f"{url}: not an archive of one checkpoint; try again, or fetch it "
                                 "by other means")
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(unpacked, folder)
    indices = _indices(folder)
    if len(indices) != 1:
        raise ValueError(f"{folder}: {len(indices)} checkpoints there, not one; remove the folder "
                         "to have it fetched again")
    return indices[0].removesuffix(".index")


def _indices(folder):
    """The paths of the indices of TensorFlow checkpoints below `folder`."""
    return glob.glob(os.path.join(glob.escape(folder), "**", "*.index"), recursive=True)


def _fetch_and_unpack(url, folder):
    """The path below `folder` that holds what is in the archive at `url`."""
    from keras.utils import get_file  # only here, since it takes seconds to load
    unpacked, before = os.path.join(folder, "unpacked"), socket.getdefaulttimeout()
    # Keras's urlretrieve takes no timeout of its own: where a server falls silent it would hang.
    socket.setdefaulttimeout(TIMEOUT)
    try:
        archive = get_file("archive.tar.gz", url, cache_dir=folder, cache_subdir="")
        with tarfile.open(archive) as tar:
            # A member that would lie outside of the folder is an error.
            tar.extractall(unpacked, filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{url}: not an archive that can be unpacked ({error}); try again, or "
                         "fetch it by other means") from None
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
            raise OSError(f"{os.path.dirname(folder)}: could not be written ({error.strerror}); "
                          "free some space or name another folder in KERAS_HOME") from None
        raise OSError(f"{url}: could not be fetched ({error})") from error
    finally:
        socket.setdefaulttimeout(before)
    return unpacked

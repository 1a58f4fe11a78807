"""A checkpoint from the network, fetched once: goes on where it broke off, checked before use."""

import contextlib
import glob
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib

from utils.cli import progress
from utils.files import check_writable, write_text

TIMEOUT, CHUNK = 30, 2 ** 20  # seconds without a byte; bytes


def fetch_checkpoint(url, folder, sha256=None):
    """Path prefix of the TensorFlow checkpoint in the .tar.gz at `url`, unpacked to `folder`.

    Where `folder` is there already nothing is fetched or written; TensorFlow checks each tensor's
    own checksum when it reads it. sha256: see `download`. Several processes may ask at once: one
    fetches, the others wait (but not on Windows). Raises OSError, ValueError naming the file and
    what to do.
    """
    if not os.path.isdir(folder):
        _fetch(url, folder, sha256)
    indices = _indices(folder)
    if len(indices) != 1:
        raise ValueError(f"{folder}: {len(indices)} checkpoints there, not one; remove the folder "
                         "to have it fetched again")
    return indices[0].removesuffix(".index")


def _fetch(url, folder, sha256):
    """Puts the checkpoint at `url` into `folder`, or waits for another process that does."""
    home = os.path.dirname(folder)
    check_writable(home, "the checkpoint", "change its permissions, or name another folder in "
                   "KERAS_HOME")
    os.makedirs(home, exist_ok=True)
    with open(f"{folder}.lock", "w", encoding="utf-8") as lock:
        with contextlib.suppress(ImportError):  # Windows has none; train.py is to start there too
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            archive = f"{folder}.tar.gz"
            if not os.path.exists(archive):  # it is there if there was no space to unpack it
                download(url, archive, sha256)
            _unpack(archive, folder)
            os.remove(archive)


def download(url, path, sha256=None):
    """Writes the file at `url` to `path`, whole or not at all.

    What arrives is kept as `path`.part, and the next call goes on from its end. The file must have
    the length that the server told and the hash `sha256`, or, where that is None, the one that is
    noted as `path`.sha256 since an earlier one was unpacked. Raises OSError where it did not
    arrive, ValueError where it is another file.
    """
    part, note = f"{path}.part", f"{path}.sha256"
    try:
        _receive(url, part)
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: odd headers
        kept = os.path.getsize(part) if os.path.exists(part) else 0
        # What urllib wraps says more by itself, but an answer of the server has its number.
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(
            error, "reason", error)
        raise OSError(f"{url}: could not be fetched ({reason})"
                      + (f"; {kept} bytes are kept in {part}, and the same command goes on from "
                         "there" if kept else "")) from error
    found = _sha256(part)
    noted = sha256 is None and os.path.exists(note)
    if noted:
        with open(note, encoding="ascii") as file:
            sha256 = file.read().strip()
    if sha256 not in (None, found):
        os.remove(part)
        raise ValueError(f"{url}: not the file it should be: its SHA-256 is {found}, not {sha256}; "
                         "removed; try again"
                         + (f"; if it was replaced on purpose, remove {note}" if noted else ""))
    os.replace(part, path)


def _receive(url, part):
    """Appends to `part` what it lacks of the file at `url`; raises OSError if that breaks off."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        # Nothing is left to send: `part` is complete, or longer than the file and of no use.
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(have):
            os.remove(part)
            _receive(url, part)
        return
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0  # the server begins anew, whatever it was asked
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        megabytes = total and -(-total // CHUNK)
        with open(part, "ab" if have else "wb") as file, contextlib.closing(
                progress(megabytes, "MB", os.path.basename(part), have // CHUNK)) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk) / CHUNK)
    if total is not None and os.path.getsize(part) != total:
        raise OSError(f"the connection broke after {os.path.getsize(part)} of {total} bytes")


def _sha256(path):
    """The hash of the file at `path`, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _indices(folder):
    """The paths of the indices of TensorFlow checkpoints in `folder`."""
    return glob.glob(os.path.join(glob.escape(folder), "*.index"))


def _unpack(archive, folder):
    """Puts the files of a checkpoint in `archive`, wherever they lie in it, into `folder`.

    Its hash is noted, see `download`, or it is removed where it is no archive of a checkpoint.
    """
    temporary = f"{folder}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    try:
        with tarfile.open(archive, "r:gz") as files:
            for member in files:
                name = os.path.basename(member.name)
                if member.isfile() and (name.endswith(".index") or ".data-" in name):
                    with open(os.path.join(temporary, name), "wb") as file:
                        shutil.copyfileobj(files.extractfile(member), file)
            while files.fileobj.read(CHUNK):
                pass  # gzip's checksum is at the very end, which tarfile need not reach
        if len(_indices(temporary)) != 1:
            raise tarfile.ReadError(f"{len(_indices(temporary))} checkpoints in it, not one")
        # Only now: the first that arrives may be a proxy's page, or of two files one after another.
        write_text(f"{archive}.sha256", _sha256(archive) + "\n")
        os.rename(temporary, folder)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        os.remove(archive)
        raise ValueError(f"{archive}: not an archive that can be unpacked ({error}); removed; try "
                         "again") from error
    except OSError as error:
        raise OSError(f"{folder}: could not be written ({error.strerror or error}); free some "
                      "space; the archive is kept and not fetched again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

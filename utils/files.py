"""Writing whole files or none: a temporary name first, then a rename."""

import contextlib
import os


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary name beside `path` to write to; renamed to `path` if all went well.

    The temporary name keeps the extension, since encoders choose by it. OSErrors name `path`.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".partial-{os.getpid()}-{name}")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error.strerror or error}); "
                      "free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_bytes(path, data):
    """Writes `data` (bytes) to `path`, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path, text):
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))

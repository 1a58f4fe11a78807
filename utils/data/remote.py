"""Scenes that GDAL reads from a server: https://, s3://, gs://, az://, and its /vsi... names."""

import os
import re

# A server that sends nothing for so many seconds has failed; what fails is asked for again.
for name, value in {"CONNECTTIMEOUT": 30, "LOW_SPEED_TIME": 60, "LOW_SPEED_LIMIT": 1,
                    "MAX_RETRY": 3, "RETRY_DELAY": 1}.items():
    os.environ.setdefault(f"GDAL_HTTP_{name}", str(value))


def is_remote(path):
    """Whether GDAL opens it by itself: no file of this system's."""
    return bool(re.match(r"[a-z0-9+]{2,}://|/vsi[a-z0-9_]+/", path, re.IGNORECASE))


def file_name(path):
    """The last part of a path or address, without what a query adds to an address."""
    return os.path.basename(path.split("?")[0] if is_remote(path) else path)


def reading_failed(path, error):
    """The OSError for what GDAL could not read of an address."""
    # GDAL says the reason last, in an error of its own that rasterio chains.
    reason = " ".join(str(error.__cause__ or error).split()).replace(path, "").strip(" :'")
    return OSError(f"{path}: could not be read ({reason}); check the address, the rights and the "
                   "connection, then give the same command again")

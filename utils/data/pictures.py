"""PNG, JPEG and their like, which can only be decoded from the top: all at once, by OpenCV."""

import cv2
import numpy as np

from utils.data.gdal_files import broken

# What is wrong with a file is said by the errors below, not by the library's lines on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode_picture(path, bits=None):
    """(samples [height, width, bands], RGB(A), of the type in the file; bits of a sample).

    bits: how many the file says that a sample has, where these are fewer than 8; OpenCV scales a
    single band of such to 8, which is undone here. Raises ValueError naming the file.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not _is_complete(data):
        raise broken(path)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: OpenCV cannot read it: {error.err or error}") from None
    if pixels is None:
        raise broken(path)
    if pixels.ndim == 2 and bits:
        return (pixels // np.uint8(255 // (2 ** bits - 1)))[..., None], bits
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    if pixels.shape[2] in codes:
        pixels = cv2.cvtColor(pixels, codes[pixels.shape[2]])
    return pixels, 8 * pixels.itemsize


def _is_complete(data):
    """False for no data and for a PNG without its end: OpenCV would fill up the rest. (A JPEG that
    is cut off it refuses by itself.)"""
    if data.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" in data[-64:]
    return len(data) > 0

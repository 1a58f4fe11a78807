"""One tile in, one tile out: turns, flips and photometric changes, on numpy and OpenCV only."""

import cv2
import numpy as np

# Each augmentation with the probability it had in the original; applied in this order.
AUGMENTATIONS = {
    "rotate_90": 0.25,
    "rotate_180": 0.25,
    "rotate_270": 0.25,
    "flip_horizontal": 0.25,
    "flip_vertical": 0.25,
    "gamma": 0.25,
    "blur": 0.25,
    "bilateral": 0.25,
    "gaussian_blur": 0.25,
    "noise": 0.2,
}
TURNS = ("rotate_90", "rotate_180", "rotate_270")
# np.rot90 by one, two and three quarters.
ROTATE_CODES = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
GAMMA_RANGE = (0.67, 1.5)


def augment(image, label, probabilities, gamma_range, random):
    """One random draw of all augmentations.

    image: uint8 [size, size, bands], RGB or other bands; label: uint8 [size, size]; probabilities:
    name -> [0, 1], for every name in AUGMENTATIONS; gamma_range: (low, high), both above 0; random:
    numpy Generator.
    Gives (image, label, what was done: 'rotate_90 gamma=1.23'). The label is only turned and
    flipped, so it keeps exactly its values, 255 included. The input arrays are left as they are,
    and are what is returned where nothing was done.
    """
    draws = dict(zip(AUGMENTATIONS, random.random(len(AUGMENTATIONS))))
    done = []
    # One turn at most, from a single draw: with .25 each all four directions are equally likely.
    # (Three independent draws, as in the original, compose: 90 and 270 together are no turn.)
    limits = np.cumsum([probabilities[name] for name in TURNS])
    turn = int(np.searchsorted(limits, draws[TURNS[0]], side="right"))
    if turn < len(TURNS):
        image, label = rotate(image, turn + 1), rotate(label, turn + 1)
        done.append(TURNS[turn])
    if draws["flip_horizontal"] < probabilities["flip_horizontal"]:
        image, label = cv2.flip(image, 1).reshape(image.shape), cv2.flip(label, 1)
        done.append("flip_horizontal")
    if draws["flip_vertical"] < probabilities["flip_vertical"]:
        image, label = cv2.flip(image, 0).reshape(image.shape), cv2.flip(label, 0)
        done.append("flip_vertical")
    if draws["gamma"] < probabilities["gamma"]:
        gamma = np.exp(random.uniform(*np.log(gamma_range)))
        image = change_gamma(image, gamma)
        done.append(f"gamma={gamma:.2f}")
    if draws["blur"] < probabilities["blur"]:
        image = cv2.blur(image, (3, 3)).reshape(image.shape)
        done.append("blur")
    if draws["bilateral"] < probabilities["bilateral"]:
        image = bilateral_filter(image)
        done.append("bilateral")
    if draws["gaussian_blur"] < probabilities["gaussian_blur"]:
        image = cv2.GaussianBlur(image, (5, 5), 1.5).reshape(image.shape)
        done.append("gaussian_blur")
    if draws["noise"] < probabilities["noise"]:
        image = add_point_noise(image, random)
        done.append("noise")
    return image, label, " ".join(done)


def rotate(array, quarters):
    """np.rot90 by 1 to 3 `quarters`; by OpenCV, in a quarter of the time, where it knows how."""
    if array.ndim == 2 or array.shape[2] == 3:
        return cv2.rotate(array, ROTATE_CODES[quarters - 1])
    return np.rot90(array, quarters).copy()


def change_gamma(image, gamma):
    """255 (image / 255) ^ gamma, rounded; gamma below 1 brightens. uint8, any shape."""
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return cv2.LUT(image, table).reshape(image.shape)


def bilateral_filter(image):
    """Edges of RGB uint8 [height, width, 3] are found in all three bands together, as in the
    original; OpenCV knows no other numbers of bands, so there each band is filtered by itself."""
    if image.shape[2] == 3:
        return cv2.bilateralFilter(image, 9, 75, 75)
    bands = np.moveaxis(image, -1, 0)
    return np.stack([cv2.bilateralFilter(np.ascontiguousarray(band), 9, 75, 75)
                     for band in bands], axis=-1)


def add_point_noise(image, random):
    """A copy of uint8 [height, width, bands] with one pixel in 256 turned white or black."""
    height, width = image.shape[:2]
    # 256 points on a tile of 256x256, as in the original, where all of them were white.
    points = height * width // 256
    image = image.copy()
    rows, columns = random.integers(0, height, points), random.integers(0, width, points)
    image[rows, columns] = random.choice(np.array([0, 255], np.uint8), (points, 1))
    return image

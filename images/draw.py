"""The diagrams of README.md, drawn from the code, so that they show what is computed.

    python -m images.draw
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import os

from images.model import draw_model
from images.windows import draw_windows
from utils.cli import run_script
from utils.files import write_text

FOLDER = os.path.dirname(os.path.abspath(__file__))
DIAGRAMS = {"model.svg": draw_model, "windows.svg": draw_windows}


def main():
    for name, draw in DIAGRAMS.items():
        path = os.path.join(FOLDER, name)
        write_text(path, draw())
        print(f"written: {os.path.relpath(path)}")


if __name__ == "__main__":
    run_script(main)

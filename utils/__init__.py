"""The rooms of the house: see README.md, 'How the code is laid out'."""

import os

# TensorFlow's C++ side prints a page of hardware remarks on import; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

"""What the scripts use.

Loading TensorFlow takes seconds. Until `utils.cli.run_script` takes over, Ctrl-C ends one of our
programs at once, without a traceback.
"""

import os
import signal
import sys


def end_at_once(*_):
    """A handler of Ctrl-C."""
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


# (python -m utils.metrics is called -m while its packages are loaded.)
if (os.path.basename(sys.argv[0]) in ("preprocess.py", "train.py", "predict.py", "-m")
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, end_at_once)

"""What the three scripts share on the command line: flags, progress, and how a mistake ends."""

import argparse
import contextlib
import copy
import os
import signal
import sys
import threading

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30
TEST_SCENE = "5"


def argument_parser(description):
    """A parser whose help shows every default, with the flags that all three scripts know."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=_HelpFormatter)
    parser.add_argument("--dataset", default="dataset",
                        help="working folder: scenes, tiles and their lists")
    parser.add_argument("--origin", default=None, metavar="FOLDER",
                        help="folder of the labelled scenes; by default origin/ in --dataset")
    parser.add_argument("--test_scene", default=TEST_SCENE,
                        help="name of the held-out scene, never trained on")
    parser.add_argument("--classes", default="dataset/classes.csv", metavar="FILE",
                        help="class table: id, name, colour")
    parser.add_argument("--seed", type=natural, default=0, help="seed of everything random")
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default but None, of which the help itself says what is done."""

    def add_argument(self, action):
        if action.default is None:
            action = copy.copy(action)
            action.default = argparse.SUPPRESS
        super().add_argument(action)


def probability(text):
    """argparse type: a float in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def non_negative(text):
    """argparse type: a finite float from 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number from 0")
    return value


def natural(text):
    """argparse type: a whole number from 0 that TensorFlow's 64 bits hold."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 2^63")
    return value


def positive(text):
    """argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def share(text):
    """argparse type: a float in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def part_above_0(text):
    """argparse type: a float in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from above 0 to 1")
    return value


def scale(text):
    """argparse type: a float that pictures may be enlarged or reduced by."""
    value = float(text)
    if not 0.1 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 10")
    return value


def above_zero(text):
    """argparse type: a finite float above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def port(text):
    """argparse type: the number of a port that needs no rights."""
    value = int(text)
    if not 1024 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not from 1024 to 65535")
    return value


def part_of(text):
    """argparse type: '3/16' -> (3, 16)."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text} is not of the form 3/16")
    return int(part), int(parts)


def progress(total, unit, description, initial=0):
    """A tqdm bar with rate and time left; without a terminal a plain line now and then."""
    if sys.stdout.isatty():
        return tqdm(total=total, unit=unit, desc=description, initial=initial, file=sys.stdout,
                    dynamic_ncols=True, smoothing=0.1)
    return tqdm(total=total, unit=unit, desc=description, initial=initial, ascii=True, ncols=80,
                mininterval=SECONDS_BETWEEN_LINES, maxinterval=SECONDS_BETWEEN_LINES,
                file=_LinePerUpdate())


class _LinePerUpdate:
    """A file for tqdm that ends each redraw with a newline, so that logs stay readable."""

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except OSError as error:
                # Without an errno, so that no file that is being written takes the blame.
                raise OSError(_output_failed(error)) from None

    def flush(self):
        pass


def leave_on_signals():
    """SIGTERM unwinds this process as Ctrl-C does, `finally` clauses included, with status 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def stop_event():
    """A threading.Event that the first SIGINT or SIGTERM sets; a second one ends at once."""
    event = threading.Event()

    def ask_to_stop(number, frame):
        event.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    return event


def error_line(error):
    """What a mistake is told with: one line that names the script."""
    message = " ".join(str(error).split()) or type(error).__name__
    return f"{os.path.basename(sys.argv[0])}: error: {message}"


def run_script(main):
    """Runs `main()`; bad input ends with one line on stderr and exit status 2.

    The rooms raise ValueError or OSError with the name of the file and what to do. Set
    DEEPLAB_TRACEBACK=1 to see where an error was raised.
    """
    if sys.stdout is None:  # closed by the caller (>&-)
        sys.stdout = open(os.devnull, "w")
    try:
        status = main()
        _flush_output()
        sys.exit(status)
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("DEEPLAB_TRACEBACK"):
            raise
        with contextlib.suppress(OSError):
            _flush_output()
        if isinstance(error, BrokenPipeError):
            error = _output_failed(error)
        print(error_line(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def _flush_output():
    """Flushes stdout. Where that fails, Python must not try again at its end and complain."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(_output_failed(error)) from None


def _output_failed(error):
    return (f"standard output: could not be written ({error.strerror}); let it be read to its end "
            "or send it to a file with room")

"""What the three scripts share on the command line: flags, progress, and how a mistake ends."""

import argparse
import codecs
import contextlib
import copy
import io
import os
import signal
import sys
import threading

from tqdm import tqdm

from utils import end_at_once

SECONDS_BETWEEN_LINES = 30
TEST_SCENE = "5"


def plain_parser(doc):
    """A parser whose help shows every default. doc: its first line describes the program, and its
    indented lines are the examples at the end of the help."""
    description, *lines = doc.splitlines()
    examples = "\n".join(line for line in lines if line.startswith("    "))
    return argparse.ArgumentParser(description=description, epilog=f"examples:\n{examples}",
                                   formatter_class=_HelpFormatter)


def argument_parser(doc, seeded=True):
    """A `plain_parser` with the flags that all three scripts know. seeded: whether there is
    anything random; else --seed is taken and not shown."""
    parser = plain_parser(doc)
    add = parser.add_argument_group("data").add_argument
    add("--dataset", default="dataset", help="working folder: scenes, tiles and their lists")
    add("--origin", default=None, metavar="FOLDER",
        help="folder of the labelled scenes; by default origin/ in --dataset")
    add("--test_scene", nargs="+", default=[TEST_SCENE], metavar="NAME",
        help="names of the held-out scenes, never trained on, also as patterns")
    add("--classes", default="dataset/classes.csv", metavar="FILE",
        help="class table: id, name, colour")
    add("--seed", type=natural, default=0, 
        help="seed of everything random" if seeded else argparse.SUPPRESS)
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default but those that are nothing, of which the help says what is done."""

    def add_argument(self, action):
        if action.default is None or action.default == ():
            action = copy.copy(action)
            action.default = argparse.SUPPRESS
        super().add_argument(action)


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: an int or a finite float (`kind`) within these limits."""
    def parse(text):
        try:
            value = kind(text)
            fits = ((low is None or value >= low) and (high is None or value <= high)
                    and (above is None or value > above) and (below is None or value < below)
                    and abs(value) < (LARGEST if kind is int else float("inf")))
        except ValueError:
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(
                f"{text} is not a {'whole ' if kind is int else ''}number"
                + (f" from {low}" if low is not None else f" above {above}")
                + (f" to {high}" if high is not None else
                   f" to below {below}" if below is not None else
                   " to below 2^63" if kind is int else ""))
        return value
    return parse


LARGEST = 1 << 63  # what TensorFlow's whole numbers hold
LARGEST_SIDE = 1 << 14  # of what the network sees at once, pixels; it has memory for no more
positive, natural = number(int, low=1), number(int, low=0)
non_negative, above_zero = number(float, low=0), number(float, above=0)
probability, share = number(float, 0, 1), number(float, low=0, below=1)
part_above_0 = number(float, above=0, high=1)
scale = number(float, 0.1, 10)  # what pictures may be enlarged or reduced by
side = number(int, 1, LARGEST_SIDE)
port = number(int, 1024, 65535)  # those that need no rights


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


def counted(strips, bar):
    """The strips (top, classes, ...) as they come; the bar moves by the rows of each."""
    for strip in strips:
        yield strip
        bar.update(len(strip[1]))


class _LinePerUpdate:
    """A file for tqdm that ends each redraw with a newline, so that logs stay readable."""

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

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


def error_of(path, error):
    """What is told of an `error` that came up with the file at `path`: a ValueError that names it,
    unless it is one of ours, which name their file and what to do."""
    if isinstance(error, (ValueError, OSError, MemoryError)) and (
            path in str(error) or "; " in str(error)):
        return error
    named = ValueError(f"{path}: {type(error).__name__}: {error}; if nothing is wrong with the "
                       "file, report this")
    named.__cause__ = error
    return named


def run_script(main):
    """Runs `main()`; bad input ends with one line on stderr and exit status 2.

    The modules raise ValueError or OSError with the name of the file and what to do. Set
    DEEPLAB_TRACEBACK=1 to see where an error was raised.
    """
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdout is None:  # closed by the caller (>&-)
        sys.stdout = open(os.devnull, "w")
    codecs.register_error("legible", _legible)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="legible")
    for name in ("write", "flush"):
        setattr(sys.stdout, name, _naming_output(getattr(sys.stdout, name)))
    try:
        status = main()
        _flush_output()
        sys.exit(status)
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("DEEPLAB_TRACEBACK"):
            raise
        with contextlib.suppress(OSError):
            _flush_output()
        print(error_line(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def _legible(error):
    """A stream's way with what its encoding lacks; a byte of a file's name, say, comes as \\xe9."""
    characters = error.object[error.start:error.end]
    return "".join(f"\\x{ord(one) - 0xdc00:02x}" if "\udc80" <= one <= "\udcff"
                   else ascii(one)[1:-1] for one in characters), error.end


def _flush_output():
    """Flushes stdout. Where that fails, Python must not try again at its end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _naming_output(method):
    """A method of stdout that names it where it fails; without an errno, so that the error does not
    name a file that is being written."""
    def call(*arguments):
        try:
            return method(*arguments)
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(f"standard output: could not be written ({error.strerror}); read it to "
                          "its end or send it to a file on a disk with free space") from None
    return call

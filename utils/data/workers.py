"""Work spread over processes so that it can be interrupted at any moment and leaves nothing behind.

Neither Pool nor ProcessPoolExecutor: the one waits for ever for a worker that was killed, the other
may when Ctrl-C meets it within one of its locks. Here the parent has no threads and no locks.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import sys

import cv2


def map_in_processes(function, jobs, processes, shared):
    """Yields (job, function(job, *shared)) for every job of the list, as they are done.

    Worker w does jobs w, w + processes, ... On Linux the workers are forked and see `shared` in
    this process's memory; elsewhere each gets one copy. An exception of a worker is raised here; a
    worker that was killed is a MemoryError. Close the generator (contextlib.closing) to be sure
    that no worker is left when something else goes wrong.
    """
    forked = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forked else "spawn")
    workers, readers, left = [], [], len(jobs)
    try:
        with _signals_held_back(), _without_opencv_threads():
            for index in range(min(processes, len(jobs))):
                reader, writer = context.Pipe(duplex=False)
                readers.append(reader)
                worker = context.Process(target=_work, daemon=True, args=(
                    readers if forked else [], writer, function, jobs[index::processes], shared))
                worker.start()
                workers.append(worker)
                writer.close()
        while readers:
            for reader in multiprocessing.connection.wait(readers):
                try:
                    job, result = reader.recv()
                except EOFError:
                    readers.remove(reader)
                    continue
                if isinstance(result, Exception):
                    raise result
                left -= 1
                yield job, result
        if left:
            raise MemoryError("a worker process was killed, perhaps for want of memory; "
                              "try fewer --processes")
    finally:
        with _signals_held_back():
            for worker in workers:
                worker.kill()
                worker.join()


@contextlib.contextmanager
def _signals_held_back():
    """Ctrl-C and SIGTERM take effect at the end of the block. (Within a fork Python swallows the
    KeyboardInterrupt, the forked process must not raise it at all, and a second Ctrl-C must not
    keep workers from being ended.)"""
    received = []
    handlers = {number: signal.signal(number, lambda number, _: received.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


@contextlib.contextmanager
def _without_opencv_threads():
    """OpenCV's threads, if it has started some, are ended for the block: a forked process would wait
    for ever for threads that were not forked with it."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _work(readers, writer, function, jobs, shared):
    # Else these inherited ends would keep the pipe alive when the parent no longer is.
    for reader in readers:
        reader.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The processes already fill the cores.
    cv2.setNumThreads(1)
    try:
        for job in jobs:
            try:
                result = function(job, *shared)
            except Exception as error:
                result = error
            writer.send((job, result))
    except BrokenPipeError:
        pass  # The parent was killed outright.

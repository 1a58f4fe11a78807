"""Work done ahead in a thread of its own, so that reading, the graph and writing overlap."""

import contextlib
import queue
import threading


def in_background(items, depth=2):
    """Yields what the generator `items` yields, made up to `depth` ahead by a thread.

    An error in `items` is raised here. Closing this generator ends the thread and closes `items`;
    use contextlib.closing where what `items` reads from is closed afterwards.
    """
    made, ended = queue.Queue(depth), threading.Event()

    def make():
        try:
            for item in items:
                made.put((item, None))
                if ended.is_set():
                    return
            made.put((None, StopIteration()))
        except BaseException as error:
            made.put((None, error))
        finally:
            items.close()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        ended.set()
        # A thread that waits for room in the queue must find some, or it would never end.
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                made.get_nowait()
            thread.join(.01)

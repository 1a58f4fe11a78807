"""Work done ahead in a thread of its own, so that reading, the graph and writing overlap."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


def in_background(items, depth=2):
    """Yields what the generator `items` yields, made up to `depth` ahead by a thread.

    An error in `items` is raised here. Closing this generator ends the thread and closes `items`;
    use contextlib.closing where what `items` reads from is closed afterwards.
    """
    end = object()
    with ThreadPoolExecutor(1) as executor:
        ahead = deque(executor.submit(next, items, end) for _ in range(depth + 1))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(executor.submit(next, items, end))
                yield item
        finally:
            for future in ahead:
                future.cancel()
            executor.submit(items.close)

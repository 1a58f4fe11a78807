"""Work in a thread of its own: order, errors, and that nothing is left running."""

import contextlib
import threading

import pytest

from utils.inference.background import in_background


def test_items_come_in_order_and_a_few_ahead():
    made = []
    third = threading.Event()

    def items():
        for number in range(50):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    ahead = in_background(items(), depth=2)
    assert next(ahead) == 0 and third.wait(10)
    assert list(ahead) == list(range(1, 50))


def test_no_more_than_depth_is_made_ahead():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    for number in in_background(items(), depth=2):
        # Two wait in the queue and one is in the maker's hands.
        assert len(made) <= number + 1 + 3


def test_an_error_comes_out_where_the_items_are_used():
    def items():
        yield 1
        raise ValueError("broken")

    ahead = in_background(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert list(in_background(x for x in ())) == []


@pytest.mark.parametrize("used", [1, 5])
def test_closing_ends_the_threads_and_closes_what_they_read(used):
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread())

    before = threading.active_count()
    with contextlib.closing(in_background(endless())) as first:
        with contextlib.closing(in_background(x for x in first)) as second:
            for _ in range(used):
                next(second)
    assert threading.active_count() == before
    assert len(closed) == 1 and closed[0] is not threading.current_thread()

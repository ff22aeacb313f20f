"""Work on many threads whose result is that of one."""

import time

import pytest

from golfpack.base.parallel import Turns, map_ordered


def in_turns(threads, fails=None):
    """The order in which items of uneven length did what they do in turn."""
    turns, order = Turns(), []

    def work(index):
        with turns.item(index) as wait:
            time.sleep(0.002 * (index % 3))
            if index == fails:
                raise ValueError(index)
            wait()
            order.append(index)

    list(map_ordered(work, range(9), threads))
    return order


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_turns_come_in_the_order_of_items(threads):
    assert in_turns(threads) == list(range(9))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_an_item_that_fails_keeps_nobody_waiting(threads):
    with pytest.raises(ValueError, match=r"^3$"):
        in_turns(threads, fails=3)


def test_an_item_that_takes_no_turn_passes_it_on():
    turns, order = Turns(), []

    def work(index):
        with turns.item(index) as wait:
            if index % 2:
                wait()
                order.append(index)

    list(map_ordered(work, range(6), 2))
    assert order == [1, 3, 5]

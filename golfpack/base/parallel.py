"""Parallel work whose result does not depend on the number of threads.

Every item is worked on by a thread with one BLAS/OpenMP thread inside, and results come back in
order. So `--threads` changes the time and never a bit of the artifact.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def one_thread_each() -> AbstractContextManager:
    """A block in which BLAS and OpenMP give every caller one thread."""
    return _pools(len(sys.modules)).limit(limits=1)


@lru_cache(maxsize=1)
def _pools(modules: int) -> ThreadpoolController:
    """The libraries that have threads; found anew, in milliseconds, behind every import."""
    return ThreadpoolController()


def map_ordered(fn: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, at most `threads` + 1 results in flight."""
    with one_thread_each():
        if threads <= 1:
            yield from map(fn, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            pending: deque = deque()
            try:
                for item in items:
                    pending.append(pool.submit(fn, item))
                    if len(pending) > threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


class Turns:
    """Lets the items of `map_ordered` do a part of their work in order, one at a time.

    So threads can add up what they find in one place, in an order that is always the same, and none
    has to hand over results that take memory.
    """

    def __init__(self) -> None:
        self._now = 0
        self._passed = threading.Condition()

    @contextmanager
    def item(self, index: int) -> Iterator[Callable[[], None]]:
        """Around the work on item `index`, from 0 on; yields what waits for its turn.

        An item passes its turn on when it ends, whether it waited or not, or failed.
        """

        def wait() -> None:
            with self._passed:
                self._passed.wait_for(lambda: self._now == index)

        try:
            yield wait
        finally:
            wait()
            with self._passed:
                self._now += 1
                self._passed.notify_all()

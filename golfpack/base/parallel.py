"""Parallel work whose result does not depend on the number of threads.

Every item is worked on by one thread with one BLAS/OpenMP thread inside, and results come back in
order. So `--threads` changes the time and never a bit of the artifact.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(fn: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield fn(item) in the order of `items`, at most `threads` + 1 results in flight."""
    with threadpool_limits(1):
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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.train.batches import Batches, Prefetch


def counting(size: int, **options: int) -> Batches:
    return Batches(np.arange(size, dtype=np.uint16), **options)


@given(st.integers(8, 400), st.integers(1, 4), st.integers(0, 5))
def test_an_epoch_visits_each_sequence_once(size: int, seq_len: int, seed: int) -> None:
    batches = counting(size, seq_len=seq_len, batch_size=1, seed=seed)
    epoch = np.concatenate([batches.at(i) for i in range(batches.epoch_size)])
    assert (np.diff(epoch, axis=1) == 1).all()
    starts = np.sort(epoch[:, 0])
    assert (np.diff(starts) == seq_len).all()
    # Left over are less than one sequence at the start, and less than two at the end, where every
    # offset must leave room for the same number of sequences.
    assert starts[0] < seq_len
    assert size - epoch.max() <= 2 * seq_len


def test_batches_depend_on_step_and_seed_alone() -> None:
    options = {"seq_len": 4, "batch_size": 3, "seed": 1}
    forwards = [counting(100, **options).at(s) for s in range(30)]
    again = counting(100, **options)
    for step in (29, 3, 11):
        assert np.array_equal(again.at(step), forwards[step])
    other = counting(100, **(options | {"seed": 2}))
    assert not np.array_equal(other.at(0), forwards[0])


def test_epochs_differ_and_one_batch_may_straddle_two() -> None:
    batches = counting(30, seq_len=4, batch_size=4, seed=0)
    assert batches.epoch_size == 6
    rows = np.concatenate([batches.at(s) for s in range(3)])
    first, second = np.sort(rows[:6, 0]), np.sort(rows[6:, 0])
    assert (np.diff(first) == 4).all()
    assert (np.diff(second) == 4).all()
    assert not np.array_equal(rows[:6], rows[6:])
    assert rows.dtype == np.int64


def test_too_few_tokens_are_an_error() -> None:
    assert counting(8, seq_len=4, batch_size=1, seed=0).epoch_size == 1
    with pytest.raises(UsageError, match="7 training tokens"):
        counting(7, seq_len=4, batch_size=1, seed=0)


def test_random_starts_are_uniform_and_fixed_by_seed_and_step() -> None:
    batches = Batches(np.arange(21, dtype=np.uint16), 4, 3000, 5, "random")
    rows = batches.at(7)
    assert (np.diff(rows) == 1).all()
    starts = rows[:, 0]
    assert (starts.min(), starts.max()) == (0, 16)  # the last row's last target is the last token
    assert np.bincount(starts).min() > 100
    assert np.array_equal(rows, batches.at(7))
    assert not np.array_equal(rows, batches.at(8))


@pytest.mark.parametrize("order", ["epochs", "random"])
def test_shorter_rows_are_beginnings(order: str) -> None:
    batches = Batches(np.arange(100, dtype=np.uint16), 8, 4, 0, order)
    assert np.array_equal(batches.at(3, 5), batches.at(3)[:, :6])


def test_prefetching_changes_nothing() -> None:
    made: list[int] = []

    def make(step: int) -> np.ndarray:
        made.append(step)
        return np.array([step])

    with Prefetch(make) as prefetch:
        assert [prefetch.at(step).item() for step in (4, 5, 6, 2, 3)] == [4, 5, 6, 2, 3]
    assert made[:6] == [4, 5, 6, 7, 2, 3]  # and perhaps 4, which nobody has asked for

    def fail(step: int) -> np.ndarray:
        raise UsageError("no such batch")

    with Prefetch(fail) as prefetch, pytest.raises(UsageError, match="no such batch"):
        prefetch.at(0)

"""The device decoder, twin and kernel, does what the numpy decoder does: codes, state, complaints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError
from golfpack.packer.devicecoding import device_decoder
from golfpack.packer.format import loader
from golfpack.packer.format.rans import (
    fast,
)
from golfpack.packer.format.rans import (
    lanes as rans,
)
from golfpack.packer.format.rans.codes import Decoder
from golfpack.packer.format.rans.lanes import Reader
from golfpack.packer.format.rans.tables import (
    LEVELS,
    tables,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def outcome(decode: Decoder, reader: Reader, runs: list[np.ndarray]) -> tuple[list[list[int]], str]:
    """Codes of every run of levels and where the reader ends up, or what was wrong."""
    left = Reader(reader.states.copy(), reader.words, reader.escapes)
    seen: list[list[int]] = []
    try:
        for levels in runs:
            codes = decode(left, levels, tables())
            assert (codes.dtype, codes.shape) == (np.int32, levels.shape)
            seen += [codes.tolist(), left.states.tolist(), [left.word, left.escape]]
    except CorruptError as e:
        return [], e.message
    return seen, ""


def encoded(seed: int, sizes: list[int], lanes: int, magnitude: int, top: int):
    """A reader of random codes at random levels below `top`, and the levels of each run."""
    rng = np.random.default_rng(seed)
    runs = [
        (
            rng.integers(-magnitude, magnitude, size, dtype=np.int32),
            rng.integers(0, top, size, dtype=np.uint8),
        )
        for size in sizes
    ]
    return Reader(*fast.encode_runs(runs, lanes, tables())), [levels for _, levels in runs]


def damaged(reader: Reader, rng: np.random.Generator) -> Reader:
    """The reader cut short or bent, or with states from anywhere."""
    states, words, escapes = reader.states.copy(), reader.words.copy(), reader.escapes.copy()
    match rng.integers(4):
        case 0:
            words = words[: rng.integers(len(words) + 1)]
        case 1:
            escapes = escapes[: rng.integers(len(escapes) + 1)]
        case 2:
            words = rng.integers(0, 2**32, len(words), dtype=np.uint32)
            escapes = rng.integers(0, 2**35, len(escapes))
        case _:
            states = rng.integers(2**32, 2**64, len(states), dtype=np.uint64)
    return Reader(states, words, escapes)


def agrees(reader: Reader, runs: list[np.ndarray], kernel: bool) -> None:
    decode = device_decoder(torch.device("cpu"), kernel=kernel)
    assert outcome(decode, reader, runs) == outcome(rans.decode_run, reader, runs)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 130), min_size=1, max_size=3),
    lanes_log2=st.integers(2, 6),
    magnitude=st.sampled_from([1, 3, 40, 5000, 2**31 - 1]),
    top=st.sampled_from([20, LEVELS]),
)
def test_twin(seed: int, sizes: list[int], lanes_log2: int, magnitude: int, top: int) -> None:
    reader, runs = encoded(seed, sizes, 1 << lanes_log2, magnitude, top)
    agrees(reader, runs, kernel=False)
    agrees(damaged(reader, np.random.default_rng(seed)), runs, kernel=False)


@pytest.mark.parametrize("lanes", [1, 2, 64])
@pytest.mark.parametrize(("magnitude", "top"), [(3, 40), (40, 20), (2**31 - 1, LEVELS)])
def test_few_codes_many_lanes_and_the_reverse(kernel, lanes, magnitude, top) -> None:
    rng = np.random.default_rng(lanes)
    reader, runs = encoded(lanes, [min(3 * lanes + 2, 100), 0, 3], lanes, magnitude, top)
    agrees(reader, runs, kernel)
    for _ in range(2):
        agrees(damaged(reader, rng), runs, kernel)


@pytest.mark.parametrize("level", [0, 24, 55, 56, LEVELS - 1])
def test_extremes(kernel, level: int) -> None:
    codes = np.array([-(2**31), 2**31 - 1, 0, -1, 1, 2**30, -(2**30) - 1], np.int32)
    levels = np.full(len(codes), level, np.uint8)
    reader = Reader(*fast.encode_runs([(codes, levels)], 8, tables()))
    decode = device_decoder(torch.device("cpu"), kernel=kernel)
    assert np.array_equal(decode(reader, levels, tables()), codes)
    reader.check_finished()


def test_each_fault_has_its_name(kernel) -> None:
    reader, runs = encoded(1, [90], 16, 40, 20)
    agrees(reader, runs, kernel)
    decode = device_decoder(torch.device("cpu"), kernel=kernel)
    cut = Reader(reader.states, reader.words[:-1], reader.escapes)
    assert "too early" in outcome(decode, cut, runs)[1]
    cut = Reader(reader.states, reader.words, reader.escapes[:-1])
    assert "escape list" in outcome(decode, cut, runs)[1]
    codes, levels = np.array([2**31 - 1], np.int32), np.array([LEVELS - 1], np.uint8)
    states, words, escapes = fast.encode_runs([(codes, levels)], 1, tables())
    assert "32-bit" in outcome(decode, Reader(states, words, escapes + 1), [levels])[1]


def test_the_loader_passes_a_decoder_on() -> None:
    blob = (GOLDEN / "v1-rans.golf").read_bytes()
    used = []

    def decode(reader: Reader, levels: np.ndarray, t) -> np.ndarray:
        used.append(len(levels))
        return fast.decode_run(reader, levels, t)

    expected = loader.loads(blob).weights()
    found = loader.loads(blob, decode).weights()
    assert sum(used) > 0
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        assert w.tobytes() == found[name].tobytes(), name

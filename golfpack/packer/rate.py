"""How many bits a dial costs, before anything is quantized for real."""

from bisect import bisect_left
from typing import cast

import numpy as np
from scipy.optimize import brentq  # pyright: ignore

from golfpack.base.parallel import map_ordered
from golfpack.packer.format.rawfloat import RAW_STORAGE
from golfpack.packer.format.steps import every_row, step_matrix
from golfpack.packer.quantize.gptq import round_nearest
from golfpack.packer.quantize.schemes import Keep, kept_type
from golfpack.packer.state import PackState, has_states, quantized_names, step_field

# The rate model looks at about this many weights of a tensor.
SAMPLE = 1 << 15
# log2 of the dial is searched in +-REACH: from lossless to nothing left, for any checkpoint.
REACH = 60


class RateModel:
    """Estimated bits of all quantized tensors as a function of log2(dial), from sampled rows.

    Attributes:
        weights: how many weights are quantized.
        kept_bits: bits of the tensors that stay floats, and of the tokenizer, whatever the dial.
    """

    def __init__(self, state: PackState) -> None:
        self.state = state
        self.names = quantized_names(state)
        self.weights = sum(state.weights[n].size for n in self.names)
        self.kept_bits = 8.0 * sum(
            kept_bytes(scheme, state.weights[n])
            for n, scheme in state.plan.items()
            if isinstance(scheme, Keep)
        )
        if state.tokenizer is not None:
            self.kept_bits += 8.0 * len(state.tokenizer.coded)
        self._seen: dict[float, float] = {}

    def bits(self, x: float) -> float:
        """Entropy of the sampled codes at log2(dial) = x, scaled up to all weights."""
        if x not in self._seen:
            bits = map_ordered(lambda n: self.tensor_bits(n, x), self.names, self.state.threads)
            self._seen[x] = sum(bits)
        return self._seen[x]

    def tensor_bits(self, name: str, x: float) -> float:
        """The same for one tensor."""
        w = self.state.matrix(name)
        steps = step_field(self.state, name, 2.0**x)
        stride = max(1, w.size // SAMPLE)
        sampled, steps = w[::stride], every_row(steps, stride)
        codes = round_nearest(sampled, steps, self.state.plan[name].limit)
        if not has_states(self.state, name):
            return entropy(codes) * w.size
        # Half of them belong to Q1, of other cells.
        size = np.abs(sampled / step_matrix(steps, sampled.shape))
        second = np.where(size < 0.25, 0, np.floor(size) + 1) * np.sign(sampled)
        return (entropy(codes) + entropy(second)) / 2 * w.size

    def solve(self, bits: float) -> float:
        """log2(dial) at which the model gives `bits`; an end of the range when none does."""
        # Whole numbers first: they serve all that is asked, and no answer depends on what was before it.
        whole = range(-REACH, REACH + 1)
        above = bisect_left(whole, -bits, key=lambda x: -self.bits(x))
        if above in (0, len(whole)):
            return float(whole[min(above, len(whole) - 1)])

        def over(x: float) -> float:
            """Bits too many; 0 where they are within 1e-4 a weight."""
            found = self.bits(x) - bits
            return 0.0 if abs(found) < 1e-4 * self.weights else found

        return cast(float, brentq(over, whole[above - 1], whole[above], xtol=1e-4))


def kept_bytes(scheme: Keep, w: np.ndarray) -> int:
    """Bytes of a tensor that stays floats, before any codec."""
    return w.size * RAW_STORAGE[kept_type(scheme, w)].itemsize


def entropy(codes: np.ndarray) -> float:
    """Order-0 entropy of integer codes, bits per code; 0 for none."""
    flat = codes.ravel().astype(np.int64)
    if not flat.size:
        return 0.0
    # A wide alphabet defeats a small sample: drop low bits, which are as good as uniform, and add
    # them back.
    dropped = max(0, int(flat.max() - flat.min()).bit_length() - 9)
    counts = np.bincount((flat >> dropped) - (int(flat.min()) >> dropped)).astype(np.float64)
    p = counts[counts > 0] / flat.size
    return float(-(p * np.log2(p)).sum()) + dropped

"""Two curves through the rungs of a ladder, and what a shape in between would give.

At equal time, loss over parameters has a minimum, and is a parabola in the logarithm of the
parameters as far as a ladder reaches (Hoffmann et al. 2022, arXiv 2203.15556, approach 2). What
compiling adds is exponential in bits per weight, as a bit more is a quarter of the squared error; below
two bits it bends, so its logarithm is a parabola, too, where four rungs allow one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

# Bits per byte that stand for a gap of none, or of less: artifacts may score better by chance.
LEAST_GAP = 1e-5
# Fewer rungs give no curve.
LEAST = 3


@dataclass(frozen=True)
class Rung:
    """A shape's figures, of one seed or as means over seeds.

    Attributes:
        parameters: weights, tied ones once.
        bits: 8 bytes of the artifact / parameters.
        float_bpb: of the float model.
        gap: what compiling adds, bits per byte.
    """

    parameters: int
    bits: float
    float_bpb: float
    gap: float


@dataclass(frozen=True)
class Curve:
    """A polynomial through points.

    Attributes:
        of: what it is of, and over what.
        center: subtracted from x.
        coefficients: of (x - center) to the power 0, 1, 2.
        residual: root mean square of what it leaves of the points, in bits per byte; 0 where it goes
            through them.
    """

    of: str
    center: float
    coefficients: tuple[float, ...]
    residual: float

    def __call__(self, x: float) -> float:
        return sum(c * (x - self.center) ** power for power, c in enumerate(self.coefficients))


@dataclass(frozen=True)
class Curves:
    """The two of a ladder.

    Attributes:
        float_bpb: bits per byte over ln(parameters), at equal time or steps.
        gap: ln of the bits per byte that compiling adds, over bits per weight.
    """

    float_bpb: Curve
    gap: Curve

    def at(self, parameters: int, bits: float) -> float:
        """Bits per byte to expect of an artifact."""
        return self.float_bpb(log(parameters)) + exp(self.gap(bits))

    @property
    def residual(self) -> float:
        """What both leave, bits per byte."""
        return float(np.hypot(self.float_bpb.residual, self.gap.residual))


def fit(rungs: Sequence[Rung]) -> Curves | None:
    """The curves through rungs of different sizes; None where there are fewer than three."""
    if len({r.parameters for r in rungs}) < LEAST:
        return None
    sizes = np.log([r.parameters for r in rungs])
    losses = np.array([r.float_bpb for r in rungs])
    bits = np.array([r.bits for r in rungs])
    gaps = np.maximum([r.gap for r in rungs], LEAST_GAP)
    of_size = _polynomial("float bpb over ln(parameters)", sizes, losses, np.ones(len(rungs)), 2)
    degree = 2 if len(rungs) > LEAST else 1
    # An error of the logarithm counts by what it is in bits per byte: small gaps hardly do.
    of_bits = _polynomial("ln(added bpb) over bits per weight", bits, np.log(gaps), gaps, degree)
    return Curves(of_size, of_bits)


def _polynomial(of: str, x: np.ndarray, y: np.ndarray, weights: np.ndarray, degree: int) -> Curve:
    center = float(x.mean())
    powers = np.vander(x - center, degree + 1, increasing=True)
    found = np.linalg.lstsq(powers * weights[:, None], y * weights, rcond=None)[0]
    left = (powers @ found - y) * weights
    free = max(1, len(x) - degree - 1)
    return Curve(of, center, tuple(map(float, found)), float(np.sqrt((left**2).sum() / free)))

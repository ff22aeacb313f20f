"""What a build would cost, from calibration alone: the quadratic model, corrected by one probe.

The quadratic KL of a rounding (`Sensitivity.kl`) is optimistic by 15 to 50%: it leaves out higher
orders, and error feedback adapts to the very tokens the Hessians came from. The ratio to a measured KL
hardly changes with the rate, so one probe on held-out calibration tokens corrects all predictions. The
same probe relates the rate model to the real coder. That ratio does change below it, where headers and
steps weigh more: there a second probe, at the coarsest steps on offer, tells the other end, and what
`build` would refuse.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2

from golfpack.base.parallel import map_ordered
from golfpack.errors import BudgetError
from golfpack.packer.aim import Budget, told_bytes
from golfpack.packer.quantize.schemes import Keep
from golfpack.packer.rate import RateModel, kept_bytes
from golfpack.packer.recipe import Recipe
from golfpack.packer.search import AMPLE_BPW, ample, exact_bytes, kept_and_coded
from golfpack.packer.state import PackState, run_passes
from golfpack.spec import as_matrix

# The probe's rate, in bits per weight by the rate model: the middle of where people build.
PROBE_BPW = 3.0
# A dial that misses the budget by more than this share does so because the recipe ends there.
OUT_OF_REACH = 0.01
# A frontier's points: octaves of the dial between neighbours, and how many on either side.
FRONTIER_STEP = 0.25
FRONTIER_SIDE = 5


@dataclass(frozen=True)
class TensorPrediction:
    """What to expect of one tensor: its bytes in the file, and the KL it causes (None: not known)."""

    bytes: float
    kl: float | None


@dataclass(frozen=True)
class Prediction:
    """What to expect of one budget.

    Attributes:
        budget_bytes: None where a dial was asked about.
        dial: 0 where the budget holds every weight exactly.
        artifact_bytes: expected size of the file.
        kl: expected KL(float || artifact), nats per token; None where calibration measured no
            gradients.
        tensors: the same by tensor; they add up to nearly the whole.
    """

    budget_bytes: int | None
    dial: float
    artifact_bytes: int
    bits_per_weight: float
    kl: float | None
    tensors: Mapping[str, TensorPrediction]


def quadratic_kl(state: PackState) -> float:
    """Expected KL of a state's quantized tensors by the quadratic model, nats per token."""
    return sum(tensor_kl(state).values())


def tensor_kl(state: PackState) -> dict[str, float]:
    """The same by tensor, of those that are quantized."""

    def one(name: str) -> float:
        w = state.floats[name].reshape(as_matrix(state.floats[name].shape))
        error = state.tensors[name].dequantize().reshape(w.shape) - w
        return state.sensitivity[name].kl(error)

    found = map_ordered(one, state.sensitivity, state.threads)
    return dict(zip(state.sensitivity, found, strict=True))


def kl_ratio(state: PackState, recipe: Recipe) -> float | None:
    """`Predictor.kl_ratio` alone: the probe is quantized, but nothing is coded."""
    rate = RateModel(state)
    dial = 2.0 ** rate.solve(PROBE_BPW * rate.weights)
    return _measured_over_quadratic(run_passes(recipe.quantize, replace(state, dial=dial)))


def _measured_over_quadratic(probe: PackState) -> float | None:
    if not _gradients(probe):
        return None
    expected = quadratic_kl(probe)
    if probe.measure is None or expected <= 0:
        return 1.0
    return probe.measure(probe.tensors) / expected


def frontier(
    rate: RateModel, dial: float, artifact_bytes: int, kl: float
) -> list[tuple[int, float]]:
    """What other dials would give, (bytes, KL in nats per token), around a build that is known.

    Sizes are the rate model's, scaled so that the build's own comes out; the KL grows with the square
    of the dial, as rounding errors do (`fit_quality` steers by the same law). Nothing is quantized. The
    build itself is one of the points, which go from the smallest file to the largest.
    """
    x = log2(dial)
    points = {artifact_bytes: kl}
    for i in range(1, FRONTIER_SIDE + 1):
        for shift in (i * FRONTIER_STEP, -i * FRONTIER_STEP):
            size = kept_and_coded(rate, x, artifact_bytes, x + shift)
            # Where bit widths or clips end, no dial changes the size: the nearest one stands for all.
            points.setdefault(size, kl * 4.0**shift)
    return sorted(points.items())


class Predictor:
    """Predictions for one checkpoint under one recipe.

    Attributes:
        kl_ratio: measured over quadratic KL at the probe; 1 when nothing can be measured, None where
            calibration measured no gradients.
        round_seconds: wall time of the probe, which is one round of the search.
        probed: what the probe gave.
        smallest: real size at the coarsest steps on offer; None until a budget below the probe's size
            is asked about.
    """

    def __init__(self, state: PackState, recipe: Recipe, dial: float | None = None) -> None:
        """Probe once, at `dial` or at PROBE_BPW. `state` is as the recipe's `prepare` left it."""
        # A probe may be larger than the budget, and nothing is to be pruned from it for that.
        self.state, self.recipe = replace(state, limit=None), recipe
        self.rate = RateModel(self.state)
        x = self.rate.solve(PROBE_BPW * self.rate.weights) if dial is None else log2(dial)
        began = time.perf_counter()
        probe = run_passes(recipe.round, replace(self.state, dial=2.0**x))
        self.round_seconds = time.perf_counter() - began
        # Bits by the rate model and in the real file, of everything that is not kept as floats.
        self.probe = (max(self.rate.bits(x), 1.0), self._coded(probe))
        self.floor = (0.0, 0.0)
        self.smallest: int | None = None
        self.kl_ratio = _measured_over_quadratic(probe)
        self.probed = probe

    def follow(self, built: PackState) -> None:
        """Predict what a build makes of such roundings.

        Args:
            built: `probed` as a build leaves it, which does more behind its search.
        """
        expected = quadratic_kl(self.probed)
        if self.kl_ratio is not None and built.measure is not None and expected > 0:
            self.kl_ratio = built.measure(built.tensors) / expected

    def predict(self, budget_bytes: int) -> Prediction:
        """What a budget for the artifact alone would give, without coding anything.

        Raises:
            BudgetError: less than the recipe's coarsest steps make.
        """
        exact = exact_bytes(self.state.original or self.state.weights)
        if self.state.tokenizer is not None:
            exact += len(self.state.tokenizer.coded)
        if self.rate.weights and budget_bytes >= exact:
            return self._lossless(budget_bytes, exact)
        wanted = 8 * budget_bytes - self.rate.kept_bits
        if wanted < self.probe[1]:
            smallest = self._probe_floor()
            if budget_bytes < smallest:
                raise _below(budget_bytes, smallest)
        found = self._enough(budget_bytes) or self.at(
            2.0 ** self.rate.solve(self._across(wanted, 1, 0))
        )
        if found.artifact_bytes > (1 + OUT_OF_REACH) * budget_bytes:
            raise _below(budget_bytes, found.artifact_bytes)
        # Where the rate model jumps no dial meets the budget exactly; a build never goes over it.
        size = min(found.artifact_bytes, budget_bytes)
        bpw = 8 * size / self.state.spec.numel
        return replace(found, budget_bytes=budget_bytes, artifact_bytes=size, bits_per_weight=bpw)

    def _enough(self, budget_bytes: int) -> Prediction | None:
        """What a build makes of a budget that holds more than the model can use; see `fit_bytes`."""
        rate, least = self.rate, self.recipe.search.least_kl
        if least == 0 or self.state.measure is None or self.kl_ratio is None:
            return None
        if not ample(rate, budget_bytes):
            return None
        found = self.at(2.0 ** rate.solve(AMPLE_BPW * rate.weights))
        if found.kl is not None and found.kl > least:
            found = self.at(found.dial * (least / found.kl) ** 0.5)
        return found if found.artifact_bytes <= budget_bytes else None

    def _probe_floor(self) -> int:
        """Bytes at the coarsest steps, coded for real once: `build` refuses less than that, too."""
        if self.smallest is None:
            x = self.recipe.search.coarsest(self.rate)
            coarse = run_passes(self.recipe.round, replace(self.state, dial=2.0**x))
            self.smallest, self.floor = coarse.size, (self.rate.bits(x), self._coded(coarse))
        return self.smallest

    def _coded(self, done: PackState) -> float:
        return max(8 * done.size - self.rate.kept_bits, 1.0)

    def _across(self, value: float, here: int, there: int) -> float:
        """Bits by the rate model (0) or of the real file (1) to the other: a line between the probes."""
        low, high = self.floor, self.probe
        if value >= high[here] or high[here] <= low[here]:
            return value * high[there] / high[here]
        share = (value - low[here]) / (high[here] - low[here])
        return low[there] + share * (high[there] - low[there])

    def at(self, dial: float) -> Prediction:
        """What a dial would give, without coding anything."""
        kls: dict[str, float] = {}
        if self.kl_ratio is not None:
            rounded = run_passes(self.recipe.quantize, replace(self.state, dial=dial))
            kls = {n: self.kl_ratio * kl for n, kl in tensor_kl(rounded).items()}
        size = self._bytes(self.rate.bits(log2(dial)))
        kl = None if self.kl_ratio is None else sum(kls.values())
        bpw = 8 * size / self.state.spec.numel
        return Prediction(None, dial, size, bpw, kl, self._tensors(log2(dial), kls))

    def _tensors(self, x: float, kls: Mapping[str, float]) -> dict[str, TensorPrediction]:
        found: dict[str, TensorPrediction] = {}
        bits = max(self.rate.bits(x), 1.0)
        ratio = self._across(bits, 0, 1) / bits
        for name, scheme in self.state.plan.items():
            if isinstance(scheme, Keep):
                size = kept_bytes(scheme, self.state.weights[name])
            else:
                size = self.rate.tensor_bits(name, x) * ratio / 8
            found[name] = TensorPrediction(size, kls.get(name))
        return found

    def _bytes(self, bits: float) -> int:
        """Expected size of the file whose quantized tensors have `bits` by the rate model."""
        return round((self.rate.kept_bits + self._across(bits, 0, 1)) / 8)

    def _lossless(self, budget_bytes: int, exact: int) -> Prediction:
        kl = None if self.kl_ratio is None else 0.0
        tensors = {
            n: TensorPrediction(kept_bytes(Keep("exact"), w), kl)
            for n, w in (self.state.original or self.state.weights).items()
        }
        bpw = 8 * exact / self.state.spec.numel
        return Prediction(budget_bytes, 0.0, exact, bpw, kl, tensors)


def _gradients(state: PackState) -> bool:
    """Whether calibration measured what makes an expected error an expected KL."""
    if state.stats is None:
        return False
    return all(u.row_weight is not None for uses in state.stats.uses.values() for u in uses)


def _below(budget_bytes: int, smallest: int) -> BudgetError:
    return BudgetError(
        f"the coarsest steps of this recipe make about {smallest:,} bytes, "
        f"{smallest - budget_bytes:,} over the budget of {told_bytes(Budget(budget_bytes))}",
        f"plan with {smallest:,} bytes or more",
        shortfall=smallest - budget_bytes,
    )

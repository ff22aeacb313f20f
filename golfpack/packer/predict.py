"""What a build would cost, from calibration alone: the quadratic model, corrected by one probe.

The quadratic KL of a rounding (`Sensitivity.kl`) is optimistic by 15 to 50%: it leaves out higher
orders, and error feedback adapts to the very tokens the Hessians came from. The ratio to a measured KL
hardly changes with the rate, so one probe on held-out calibration tokens corrects all predictions. The
same probe relates the rate model to the real coder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from golfpack.errors import BudgetError, UsageError
from golfpack.packer.allocate import Fit, exact_bytes
from golfpack.packer.ir import as_matrix
from golfpack.packer.rate import RateModel
from golfpack.packer.state import PackState, Pass, run_passes

# The probe's rate, in bits per weight by the rate model: the middle of where people build.
PROBE_BPW = 3.0


@dataclass(frozen=True)
class Prediction:
    """What to expect of one budget.

    Attributes:
        artifact_bytes: expected size of the file.
        kl: expected KL(float || artifact), nats per token.
    """

    budget_bytes: int
    dial: float
    artifact_bytes: int
    bits_per_weight: float
    kl: float


def split_at_fit(passes: Sequence[Pass]) -> tuple[tuple[Pass, ...], Fit]:
    """The passes before `fit`, and `fit`. Raises UsageError for a recipe without one."""
    for i, p in enumerate(passes):
        if isinstance(p, Fit):
            return tuple(passes[:i]), p
    raise UsageError("this recipe has no fit pass, so its size does not follow a budget", None)


def quadratic_kl(state: PackState) -> float:
    """Expected KL of a state's quantised tensors by the quadratic model, nats per token."""
    total = 0.0
    for name, sensitivity in state.sensitivity.items():
        shape = as_matrix(state.weights[name].shape)
        error = state.tensors[name].dequantize().reshape(shape) - state.matrix(name)
        total += sensitivity.kl(error)
    return total


class Predictor:
    """Predictions for one checkpoint under one recipe.

    Attributes:
        kl_ratio: measured over quadratic KL at the probe; 1 when nothing can be measured.
        size_ratio: real over estimated bytes at the probe.
    """

    def __init__(self, state: PackState, fit: Fit) -> None:
        """Probe once. `state` is as the passes before `fit` left it."""
        self.state, self.fit = state, fit
        self.rate = RateModel(state)
        x = self.rate.solve(PROBE_BPW * self.rate.weights)
        probe = run_passes(fit.body, replace(state, dial=2.0**x))
        assert probe.blob is not None
        self.size_ratio = 8 * len(probe.blob) / max(self.rate.bits(x), 1.0)
        self.kl_ratio = 1.0
        expected = quadratic_kl(probe)
        if state.measure is not None and expected > 0:
            self.kl_ratio = state.measure(probe.tensors) / expected

    def predict(self, budget_bytes: int) -> Prediction:
        """What a budget for the artifact alone would give, without coding anything.

        Raises:
            BudgetError: less than the recipe's smallest artifact.
        """
        numel = self.state.spec.numel
        exact = exact_bytes(self.state.weights)
        if budget_bytes >= exact:
            return Prediction(budget_bytes, 0.0, exact, 8 * exact / numel, 0.0)
        smallest = round(self.fit.floor_bpw * self.rate.weights * self.size_ratio / 8)
        if budget_bytes < smallest:
            raise BudgetError(
                f"{budget_bytes:,} bytes are below this recipe's smallest artifact, "
                f"about {smallest:,} bytes",
                "plan with larger budgets",
                shortfall=smallest - budget_bytes,
            )
        x = self.rate.solve(8 * budget_bytes / self.size_ratio)
        quantise = [p for p in self.fit.body if p.name != "encode"]
        done = run_passes(quantise, replace(self.state, dial=2.0**x))
        size = round(self.rate.bits(x) * self.size_ratio / 8)
        return Prediction(
            budget_bytes, 2.0**x, size, 8 * size / numel,
            self.kl_ratio * quadratic_kl(done),
        )  # fmt: skip

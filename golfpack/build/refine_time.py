"""How many tokens `--refine auto` trains on: as many as take a bit less time than the rest of a build.

Time is told by counting what both do, never by a clock: two builds of the same inputs must end with the
same file.
"""

from dataclasses import dataclass

from golfpack.build.distil import tokens_per_update
from golfpack.build.prepare import Prepared
from golfpack.calib.collect import MAX_COV_ROWS
from golfpack.packer.passes.quantize import Round
from golfpack.packer.recipe import Recipe
from golfpack.spec import ModelSpec, as_matrix

# Nanoseconds of one core of 2026; what counts is what they are to one another (docs/LOG.md).
FLOP = 1 / 60
# Besides its operations, a product of a matrix with one token: calls, norms, attention.
PRODUCT = 1000.0
# One weight in one update.
UPDATE = 12.0
# One weight through all rounds of the search for a budget, by how its code is chosen. Where there are
# many weights, the search is a narrow one.
SEARCHED, NARROWLY_SEARCHED, ROUNDED = 4000.0, 2500.0, 1100.0
MANY_WEIGHTS = 10_000_000
# Passes through the network per token, back counted twice: training has the float model's, the other's
# and the way back, and half of its text has to be written.
TRAINING, WITH_GRADIENTS, INPUTS_ONLY = 4.75, 3, 1
# Of the rest of the build as it is counted here. It takes longer than that, more so than training does:
# with this share training takes half to three quarters of the time of the rest (docs/recipes.md).
SHARE = 1.2


@dataclass(frozen=True)
class Work:
    """Nanoseconds of one core.

    Attributes:
        training: a token of it.
        calibration: a token of it.
        search: all of the search for a budget. Rounding in sequence behind it is not counted, as fits
            between trainings take about as long.
    """

    training: float
    calibration: float
    search: float


def auto_tokens(prepared: Prepared) -> int:
    """Tokens to train on, where those of calibration are known."""
    assert prepared.used is not None
    work = count_work(prepared.model.spec, prepared.recipe)
    rest = prepared.used.sequences.size * work.calibration + work.search
    return int(SHARE * rest / work.training)


def count_work(spec: ModelSpec, recipe: Recipe) -> Work:
    """What a model takes under a recipe."""
    shapes = [as_matrix(t.shape) for t in spec.tensors for hook in t.hooks if hook.kind == "linear"]
    once = sum(2 * rows * cols * FLOP + PRODUCT for rows, cols in shapes)
    hessians = sum(2 * cols**2 * FLOP for _, cols in shapes)
    covariances = sum(2 * rows**2 * FLOP for rows, _ in shapes if rows <= MAX_COV_ROWS)
    calibration = {
        "none": 0.0,
        "inputs": INPUTS_ONLY * once + hessians,
        "gradients": WITH_GRADIENTS * once + hessians + covariances,
    }[recipe.calibration]
    training = TRAINING * once + UPDATE * spec.numel / tokens_per_update(spec.numel)
    searches = any(isinstance(p, Round) and p.survivors != 1 for p in recipe.round)
    searched = SEARCHED if spec.numel <= MANY_WEIGHTS else NARROWLY_SEARCHED
    return Work(training, calibration, (searched if searches else ROUNDED) * spec.numel)

"""When a run looks at the artifact that it is for."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from golfpack.base.sizes import parse_size
from golfpack.errors import BudgetError
from golfpack.packer.aim import Budget, check_reach
from golfpack.packer.recipe import load_recipe
from golfpack.spec import ModelSpec
from golfpack.train.aim import RECIPE, look
from golfpack.train.config import TrainConfig
from golfpack.train.log import now
from golfpack.train.run import Run, Trend
from golfpack.train.schedule import aimed

# Codes trained on labels take back 45% of what rounding in sequence leaves, which is four fifths of the
# KL by rounding at once, which at the end of a run is 1.7 times what the first look finds (docs/LOG.md).
CODES_GAIN = 0.6
# Steps at the end bring four fifths of what the slope of losses promises.
STEPS_GAIN = 0.8


@dataclass(frozen=True, eq=False)
class Aim:
    """The looks of one run.

    Attributes:
        config: budget and intervals.
        spec: of the model.
        tokens: (N,) of training.
    """

    config: TrainConfig
    spec: ModelSpec
    tokens: np.ndarray

    def check(self) -> None:
        """Raise BudgetError where the shapes alone tell that no artifact fits, before any step."""
        if self.config.budget:
            budget = Budget(parse_size(self.config.budget, self.spec.numel))
            try:
                check_reach(load_recipe(RECIPE).search.floor_bpw, self.spec, budget)
            except BudgetError as e:
                raise BudgetError(
                    e.message, f"{e.hint}, as --shape 4x128; golfpack size finds the best"
                ) from e

    def remember(self, run: Run, used: float) -> None:
        """Watch how losses fall from halfway to the first look on, where that is to be told there."""
        if self.config.minutes is None or not self.config.codes_share or run.trend is not None:
            return
        if used >= self.config.aim_from / 2:
            run.read()
            run.trend = Trend()

    def due(self, run: Run, used: float) -> bool:
        """Whether a look is due before the next step, with `used` of the budget spent."""
        if not self.config.budget or used < self.config.aim_from:
            return False
        return run.look is None or self._number(used) > run.look.number

    def look(self, run: Run, used: float) -> dict[str, Any]:
        """Look; what the log says of it. At the end it is the model as it is written that is seen.

        The first look gives the time of the codes to steps where those gain more.
        """
        first = run.look is None
        run.settle()
        run.look = look(
            run.model if used < 1.0 else run.result, self.spec, self.tokens,
            parse_size(self.config.budget, self.spec.numel), self._number(used), run.step, run.look,
            count=self.config.aim_tokens, seed=self.config.seed, last=used >= 1.0,
        )  # fmt: skip
        record = run.look.record()
        if first and used < 1.0 and (gains := self._gains(run)) is not None:
            record |= dict(zip(("codes_gain", "steps_gain"), gains, strict=True))
            run.extended_at = run.seconds if gains[0] < gains[1] else None
        return record | {"time": now()}

    def _gains(self, run: Run) -> tuple[float, float] | None:
        """What the time of the codes would lower the loss by, nats per token: trained codes, or steps.

        A loss falls about linearly with the logarithm of steps. None where there is no choice.
        """
        run.read()
        slope = None if run.trend is None else run.trend.slope
        if slope is None or run.look is None:
            return None
        more = -math.log(1.0 - self.config.codes_share)
        return CODES_GAIN * run.look.kl, -STEPS_GAIN * more * slope

    def _number(self, used: float) -> int:
        return int(aimed(self.config, used) * self.config.aim_looks + 1e-9)

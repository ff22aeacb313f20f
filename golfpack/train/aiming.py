"""When a run looks at the artifact that it is for."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from golfpack.base.sizes import parse_size
from golfpack.spec import ModelSpec
from golfpack.train.aim import look
from golfpack.train.config import TrainConfig
from golfpack.train.log import now
from golfpack.train.run import Run
from golfpack.train.schedule import aimed


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

    def due(self, run: Run, used: float) -> bool:
        """Whether a look is due before the next step, with `used` of the budget spent."""
        if not self.config.budget or used < self.config.aim_from:
            return False
        return run.look is None or self._number(used) > run.look.number

    def look(self, run: Run, used: float) -> dict[str, Any]:
        """Look; what the log says of it. At the end it is the model as it is written that is seen."""
        run.look = look(
            run.model if used < 1.0 else run.result, self.spec, self.tokens,
            parse_size(self.config.budget, self.spec.numel), self._number(used), run.step, run.look,
            count=self.config.aim_tokens, seed=self.config.seed, last=used >= 1.0,
        )  # fmt: skip
        return run.look.record() | {"time": now()}

    def _number(self, used: float) -> int:
        return int(aimed(self.config, used) * self.config.aim_looks + 1e-9)

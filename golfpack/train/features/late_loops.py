"""Depth recurrence that begins late: until then every block runs once, which is cheaper.

Source: the records from 2026-04-03 on, whose loops begin at 35% to 50% of the budget.
"""

from collections.abc import Callable, Sequence

from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.train.config import TrainConfig

Switch = Callable[[bool], None]


def loop_switches(
    config: TrainConfig, family: Family, modules: Sequence[nn.Module]
) -> tuple[Switch, ...]:
    """What turns the loops of the modules on and off; empty where they run from the first step.

    Raises:
        UsageError: no block of the model is repeated.
    """
    if not config.loops_from:
        return ()
    found = [None if family.training is None else family.training.loops(m) for m in modules]
    switches = tuple(switch for switch in found if switch is not None)
    if len(switches) < len(modules):
        raise UsageError(
            f"train.loops_from is {config.loops_from}, but this {family.name} model repeats no block",
            "leave it out, or repeat blocks (model.layer_order or model.passes of the golf family)",
        )
    return switches

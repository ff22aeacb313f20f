"""The family without a network: any float tensors, packed by relative error and unpacked again.

For checkpoints that nobody described. There is nothing to calibrate or to evaluate; sizes, errors and
exact budgets are as for any model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from golfpack.errors import UsageError
from golfpack.models.base import Family, StateDict
from golfpack.models.roles import block_of, guess_role
from golfpack.spec import ModelSpec, TensorSpec

TENSORS_FAMILY = "tensors"


@dataclass(frozen=True)
class TensorsConfig:
    """No options: the tensors tell everything."""


def describe(_config: Mapping[str, Any], state: StateDict) -> ModelSpec:
    """A spec of whatever is there, by name, so that equal tensors give equal artifacts."""
    shapes = {name: tuple(state[name].shape) for name in sorted(state)}
    tensors = tuple(
        TensorSpec(name, shape, guess_role(name, shape), block_of(name))
        for name, shape in shapes.items()
    )
    return ModelSpec(TENSORS_FAMILY, {}, tensors)


def refuse(_config: Mapping[str, Any]) -> NoReturn:
    """Raise UsageError: there is no network."""
    raise UsageError(
        "these are tensors without a network: no family of golfpack's knows them, so there is "
        "nothing to run, calibrate or score",
        "build with --data-free, or write the network as a module and name it with "
        "--model FILE.py:CLASS",
    )


def matches(_state: StateDict) -> bool:
    return True  # asked for by name


def infer(_state: StateDict, _overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {}


TENSORS = Family(
    name=TENSORS_FAMILY,
    about="Any float tensors, with --data-free or --lossless; they cannot be evaluated.",
    needs="any float tensors, with --data-free",
    config_type=TensorsConfig,
    matches=matches,
    infer=infer,
    build=refuse,
    spec=refuse,
    max_length=refuse,
    describe=describe,
    asked_only=True,
)

"""How a checkpoint had its tensors: what an artifact keeps of that, so that they can be given back.

Only what nothing else tells: a checkpoint that has its tensors as the family's module has them, in
float32, leaves nothing to keep.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from golfpack.base.convert import from_json
from golfpack.errors import UsageError
from golfpack.models.base import Family, StateDict
from golfpack.models.transformers_layout import TOKEN_IDS, told_token_ids
from golfpack.spec import ModelSpec

_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
_LONG = {short: long for long, short in _SHORT.items()}


@dataclass(frozen=True)
class Source:
    """How a checkpoint had its tensors. As JSON without what has its default, it stands in artifacts.

    Attributes:
        form: names, layout and grouping, in the family's words (see `Forms`); "" as the module.
        type: `model_type` of transformers' config.json, where the options do not tell.
        dtype: of the tensors: "bf16", or matrices' and other tensors', "bf16/f32".
        dtypes: of the tensors that have another than that.
        tokens: ids of special tokens in config.json, where they are not the architecture's own.
    """

    form: str = ""
    type: str | None = None
    dtype: str = "f32"
    dtypes: Mapping[str, str] = field(default_factory=dict[str, str])
    tokens: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def compact(self) -> dict[str, Any]:
        """As an artifact has it."""
        empty = vars(Source())
        return {k: v for k, v in vars(self).items() if v != empty[k]}

    def dtype_of(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The dtype that a tensor had."""
        short = self.dtypes.get(name) or _by_rank(self.dtype, shape)
        return getattr(torch, _LONG.get(short, short))

    @property
    def main_dtype(self) -> torch.dtype:
        """The dtype of the matrices."""
        short = self.dtype.partition("/")[0]
        return getattr(torch, _LONG.get(short, short))


def read_source(compact: Any) -> Source:
    """What an artifact says of its checkpoint. Raises UsageError where that makes no sense."""
    source = from_json(Source, compact, "the manifest's source")
    for short in (*source.dtype.split("/"), *source.dtypes.values()):
        known = isinstance(short, str) and getattr(torch, _LONG.get(short, short), None)
        if not isinstance(known, torch.dtype):
            raise UsageError(f"the manifest's source names the dtype {short!r}", None)
    return source


def find_source(
    state: StateDict,
    stored: Mapping[str, Any],
    family: Family,
    config: Mapping[str, Any],
    spec: ModelSpec,
    dtypes: Mapping[str, str],
) -> Source:
    """How a checkpoint has its tensors.

    Args:
        state: them, as they are stored.
        stored: the config that came with them, by its trainer's names.
        family, config, spec: what they were recognised as.
        dtypes: of each tensor by the module's names.
    """
    form = "" if family.forms is None else family.forms.tell(state)
    ranks = {t.name: len(t.shape) > 1 for t in spec.tensors}
    main = [_most([d for n, d in dtypes.items() if ranks[n] is rank]) for rank in (True, False)]
    main = [short for short in main if short is not None] or ["f32"]
    dtype = "/".join(dict.fromkeys(main))
    shapes = {t.name: t.shape for t in spec.tensors}
    others = {
        n: _SHORT.get(d, d)
        for n, d in dtypes.items()
        if _SHORT.get(d, d) != _by_rank(dtype, shapes[n])
    }
    model_type = stored.get("model_type")
    if model_type not in family.model_types:
        return Source(form, None, dtype, others)
    own = TOKEN_IDS[model_type]
    tokens = {k: v for k, v in told_token_ids(stored).items() if v != own[k]}
    return Source(form, _untold(model_type, family, config), dtype, others, tokens)


def _untold(model_type: str, family: Family, config: Mapping[str, Any]) -> str | None:
    """The model_type, where the options alone would give another, or none."""
    assert family.transformers is not None
    try:
        derived = family.transformers.write(config, None)["model_type"]
    except UsageError:
        return model_type
    return None if derived == model_type else model_type


def _most(dtypes: list[str]) -> str | None:
    found = Counter(_SHORT.get(d, d) for d in dtypes).most_common(1)
    return found[0][0] if found else None


def _by_rank(dtype: str, shape: tuple[int, ...]) -> str:
    matrices, _, others = dtype.partition("/")
    return matrices if len(shape) > 1 or not others else others

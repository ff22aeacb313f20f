"""A model's tensors as its checkpoint had them, and as transformers reads them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from golfpack.errors import CorruptError, UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import Transformers, typed_overrides
from golfpack.models.model import Model
from golfpack.models.source import Source, read_source
from golfpack.models.transformers_layout import TOKEN_IDS

# What `--dtype` may say besides that of the checkpoint.
DTYPES = ("source", "float32", "bfloat16", "float16")
_OF_THE_CHECKPOINT = "give the folder of the checkpoint it was built from"


def source_of(model: Model) -> Source:
    """How the checkpoint of a model had its tensors."""
    return read_source(dict(model.spec.source))


def restored(
    model: Model, dtype: str = "float32", form: str | None = None
) -> dict[str, torch.Tensor]:
    """The tensors in the form in which the checkpoint had them.

    Args:
        dtype: one of `DTYPES`; "source" for those of the checkpoint.
        form: another form of the family's; None for the checkpoint's.

    Raises:
        UsageError: another dtype, or one that a value is beyond.
        CorruptError: the tensors do not go together in that form.
    """
    check_dtype(dtype)
    source = source_of(model)
    tensors = {}
    for name, w in model.weights.items():
        if dtype == "source":
            # What rounding carried beyond a narrow type's largest number is nearest to that.
            kind = source.dtype_of(name, w.shape)
            most = min(torch.finfo(kind).max, torch.finfo(torch.float32).max)
            tensors[name] = torch.tensor(w).clamp(-most, most).to(kind)
        else:
            tensors[name] = _as(name, w, getattr(torch, dtype))
    forms = model.family.forms
    if forms is None:
        return tensors
    try:
        return forms.restore(tensors, model.config, source.form if form is None else form)
    except UsageError as e:
        raise CorruptError(e.message, e.hint) from e


def _as(name: str, w: np.ndarray, kind: torch.dtype) -> torch.Tensor:
    found = torch.tensor(w).to(kind)
    if not bool(found.isfinite().all()):
        raise UsageError(
            f"tensor {name!r} has values up to {np.abs(w).max():.3g}, beyond "
            f"{str(kind).removeprefix('torch.')}",
            "choose another --dtype: float32 holds all of them",
        )
    return found


def check_dtype(dtype: str) -> None:
    """Raise UsageError unless it is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", f"choose from {', '.join(DTYPES)}")


def for_transformers(
    model: Model, dtype: str = "source", like: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config.json, tensors by the names that transformers reads) of a model.

    Args:
        dtype: one of `DTYPES`.
        like: a config.json to take in place of one from the options; it must tell the same ones.

    Raises:
        UsageError: transformers has no class for such models, or `like` is of another model.
    """
    side = _side(model)
    source = source_of(model)
    config = _own_config(model, side, source) if like is None else _config_like(model, like)
    state = restored(model, dtype, side.form(source.form))
    kind = source.main_dtype if dtype == "source" else getattr(torch, dtype)
    config["dtype"] = str(kind).removeprefix("torch.")
    return config, state


def _side(model: Model) -> Transformers:
    found = model.family.transformers
    if found is None:
        have = ", ".join(f.name for f in FAMILIES.values() if f.transformers is not None)
        raise UsageError(
            f"transformers has no class for models of family {model.family.name}",
            f"it has some for {have}; golfpack unpack without --hf writes the weights",
        )
    return found


def _own_config(model: Model, side: Transformers, source: Source) -> dict[str, Any]:
    config = side.write(model.config, source.type)
    return {**config, **TOKEN_IDS[config["model_type"]], **source.tokens}


def _config_like(model: Model, like: Mapping[str, Any]) -> dict[str, Any]:
    """The given config, which must tell the options that the model has."""
    family = model.family
    assert family.read_config is not None
    if (found := like.get("model_type")) not in family.model_types:
        raise UsageError(
            f"the config.json is of model_type {found!r}, the artifact of family {family.name}",
            _OF_THE_CHECKPOINT,
        )
    told = typed_overrides(family.config_type, family.read_config(like))
    other = [f"{k} ({v}, not {model.config[k]})" for k, v in told.items() if model.config[k] != v]
    if other:
        raise UsageError(
            f"the config.json is of another model than the artifact: {', '.join(other)}",
            _OF_THE_CHECKPOINT,
        )
    unused = ("torch_dtype", "transformers_version")
    kept = {k: v for k, v in like.items() if k not in unused}
    return {**kept, "tie_word_embeddings": model.config["tied"]}

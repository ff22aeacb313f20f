"""What the numbers in the settings of a run may be."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from golfpack.base.convert import SEEDS
from golfpack.errors import UsageError

_Range = tuple[Callable[[float], bool], str]
_AT_LEAST_ONE: _Range = (lambda v: v >= 1, "at least 1")
_POSITIVE: _Range = (lambda v: 0 < v < math.inf, "above 0 and finite")
_NOT_NEGATIVE: _Range = (lambda v: 0 <= v < math.inf, "0 or more and finite")
_BELOW_ONE: _Range = (lambda v: 0 <= v < 1, "at least 0 and below 1")
_SHARE: _Range = (lambda v: 0 <= v <= 1, "between 0 and 1")

_RANGES: dict[str, _Range] = {
    "steps": _AT_LEAST_ONE,
    "minutes": _POSITIVE,
    "batch_tokens": _AT_LEAST_ONE,
    "seq_len": _AT_LEAST_ONE,
    "accumulate": _AT_LEAST_ONE,
    "lr": _NOT_NEGATIVE,
    "matrix_lr": _NOT_NEGATIVE,
    "embed_lr": _NOT_NEGATIVE,
    "head_lr": _NOT_NEGATIVE,
    "scalar_lr": _NOT_NEGATIVE,
    "beta1": _BELOW_ONE,
    "beta2": _BELOW_ONE,
    "eps": _POSITIVE,
    "momentum": _BELOW_ONE,
    "momentum_start": _BELOW_ONE,
    "momentum_steps": _AT_LEAST_ONE,
    "momentum_cycle": _AT_LEAST_ONE,
    "weight_decay": _NOT_NEGATIVE,
    "embed_decay": _NOT_NEGATIVE,
    "scalar_decay": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "warmup_from": _SHARE,
    "warmdown_fraction": _SHARE,
    "final_lr_share": _SHARE,
    "grad_clip": _POSITIVE,
    "dropout": _BELOW_ONE,
    "label_smoothing": _BELOW_ONE,
    "ignore_id": _NOT_NEGATIVE,
    "word_start_weight": _NOT_NEGATIVE,
    "word_start_from": _NOT_NEGATIVE,
    "focal_gamma": _NOT_NEGATIVE,
    "mtp_heads": _NOT_NEGATIVE,
    "mtp_weight": _NOT_NEGATIVE,
    "jepa_weight": _NOT_NEGATIVE,
    "meta_weight": _NOT_NEGATIVE,
    "meta_rate": _NOT_NEGATIVE,
    "meta_every": _AT_LEAST_ONE,
    "meta_freeze": _NOT_NEGATIVE,
    "qk_init_tokens": _NOT_NEGATIVE,
    "curriculum_steps": _NOT_NEGATIVE,
    "loops_from": _BELOW_ONE,
    "ema_decay": _BELOW_ONE,
    "swa_start": _BELOW_ONE,
    "swa_every": _AT_LEAST_ONE,
    "decay_final": _NOT_NEGATIVE,
    "aim_from": _SHARE,
    "aim_looks": _AT_LEAST_ONE,
    "aim_tokens": _AT_LEAST_ONE,
    "codes_share": _BELOW_ONE,
    "aim_errors": _NOT_NEGATIVE,
    "rate_decay": _NOT_NEGATIVE,
    "seed": (lambda v: 0 <= v < SEEDS, f"0 or more and below {SEEDS}"),
    "val_every": _AT_LEAST_ONE,
    "val_batches": _AT_LEAST_ONE,
    "log_every": _AT_LEAST_ONE,
    "save_every": _AT_LEAST_ONE,
    "sample_every": _AT_LEAST_ONE,
    "system_every": _AT_LEAST_ONE,
    "analyse_every": _AT_LEAST_ONE,
    "threads": _AT_LEAST_ONE,
}


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Raise UsageError for the first setting that is out of its range; None stands for none."""
    for name, (holds, wanted) in _RANGES.items():
        value = settings[name]
        if value is not None and not holds(value):
            raise UsageError(f"{name} is {value}", f"It must be {wanted}.")

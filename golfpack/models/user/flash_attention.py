"""What a file finds in place of flash attention where that is not installed: the same function by torch.

The records import `flash_attn_interface` or `flash_attn` at their top (openai/parameter-golf), which
only some GPUs have. The function is defined by its formula (Dao, arXiv 2307.08691, section 2), which
torch's scaled_dot_product_attention computes as well.
"""

from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F

from golfpack.errors import UsageError

MODULES = ("flash_attn_interface", "flash_attn")
_NOT_HERE = ("flash_attn_varlen_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache")


def stand_in(name: str) -> ModuleType:
    """A module of that name with `flash_attn_func`; its other functions are an error when called."""
    module: Any = ModuleType(name)
    module.flash_attn_func = flash_attn_func
    for function in _NOT_HERE:
        setattr(module, function, _missing(f"{name}.{function}"))
    return module


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Attention of q (B, T, H, D) over k and v (B, S, KV heads, D): (B, T, H, D).

    A causal mask is aligned with the last key, as flash attention has it from version 2.1 on.

    Raises:
        UsageError: an option that this does not compute, such as a window.
    """
    asked = {n: o for n, o in options.items() if o not in (None, False, (-1, -1), 0.0)}
    if dropout_p or asked:
        what = ", ".join(sorted(asked)) or "dropout_p"
        raise UsageError(
            f"flash attention is not installed, and its stand-in has no {what}",
            "install flash-attn, or leave the option out",
        )
    heads = [t.transpose(1, 2) for t in (q, k, v)]
    mask = None
    if causal and q.shape[1] != k.shape[1]:
        shape = q.shape[1], k.shape[1]
        mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(shape[1] - shape[0])
    y = F.scaled_dot_product_attention(
        *heads, attn_mask=mask, is_causal=causal and mask is None, scale=softmax_scale,
        enable_gqa=True,
    )  # fmt: skip
    return y.transpose(1, 2)


def _missing(name: str) -> Any:
    def call(*_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            f"{name} was called, and flash attention is not installed",
            "install flash-attn; flash_attn_func alone has a stand-in",
        )

    return call

"""Meta's names and order of rotary channels <-> transformers'.

Meta pairs channels 2i and 2i + 1 of a head ("layers.0.attention.wq.weight"), transformers i and i + D/2:
rows of queries and keys are reordered.
"""

import re

import torch

from golfpack.errors import UsageError
from golfpack.models.base import StateDict

QUERY, KEY = "layers.0.attention.wq.weight", "layers.0.attention.wk.weight"
EMBED, HEAD = "tok_embeddings.weight", "output.weight"
_NAMES = {
    "tok_embeddings": "embed_tokens",
    "norm": "norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "ffn_norm": "post_attention_layernorm",
}
_OURS = {ours: metas for metas, ours in _NAMES.items()}
_NAME = re.compile(r"(?:model\.)?(layers\.\d+\.)?(.+)\.weight")
_ROTATED = ("attention.wq", "attention.wk")


def from_meta(state: StateDict, head_dim: int) -> dict[str, torch.Tensor]:
    """Tensors by Meta's names, as transformers has them; names that are not Meta's stay."""
    out = {}
    for name, tensor in state.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in _NAMES:
            out[name] = tensor  # the check of all names will say so
            continue
        if match[2] in _ROTATED:
            tensor = _reordered(tensor, head_dim, (head_dim // 2, 2))
        ours = f"{match[1] or ''}{_NAMES[match[2]]}.weight"
        out[ours if ours.startswith("lm_head.") else f"model.{ours}"] = tensor
    return out


def to_meta(state: StateDict, head_dim: int) -> dict[str, torch.Tensor]:
    """What `from_meta` undoes. Raises UsageError for a tensor that has no name of Meta's."""
    out = {}
    for name, tensor in state.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in _OURS:
            raise UsageError(f"tensor {name!r} has no name of Meta's", None)
        metas = _OURS[match[2]]
        if metas in _ROTATED:
            tensor = _reordered(tensor, head_dim, (2, head_dim // 2))
        out[f"{match[1] or ''}{metas}.weight"] = tensor
    return out


def _reordered(weight: torch.Tensor, head_dim: int, split: tuple[int, int]) -> torch.Tensor:
    """Rows of every head, taken as a table of `split`, by columns: (2i, 2i + 1) <-> (i, i + D/2)."""
    if weight.ndim != 2 or weight.shape[0] % head_dim:
        return weight  # misshapen: the check of all shapes will say so
    rows, cols = weight.shape
    table = weight.reshape(rows // head_dim, *split, cols)
    return table.transpose(1, 2).reshape(rows, cols)

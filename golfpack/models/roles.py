"""Guessing a tensor's role from its name and shape, where no family knows it."""

import re

from golfpack.spec import Role, as_matrix

# Looked for in the tensor's name, lower case, first match wins. `_` and `.` separate words.
_PATTERNS: tuple[tuple[str, Role], ...] = (
    (r"lm_head|unembed|(?:^|\.)head\.weight$|^output\.weight$", "head"),
    (r"emb|(?:^|\.)(?:wte|wpe)\.", "embed"),
    (r"(?:ff|ffn|mlp|feed_forward)\.(?:\w+\.)*(?:w2|c_proj|proj|down_proj|fc2|value|out)\b", "mlp_out"),
    (r"(?:ff|ffn|mlp|feed_forward|experts?)\.", "mlp_in"),
    (r"at\w*\.(?:\w+\.)*(?:wo|o|c_proj|proj|o_proj|out_proj|out|output|dense)\b", "attn_out"),
    (r"(?:^|[._])(?:w?k|c_k|k_proj|key)\b", "attn_k"),
    (r"(?:^|[._])(?:w?v|c_v|v_proj|value)\b", "attn_v"),
    (r"qkv|(?:^|\.)(?:w?q|c_q|q_proj|query)\b|(?:^|[._])at\w*\.", "attn_q"),
)  # fmt: skip
_BLOCK = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def guess_role(name: str, shape: tuple[int, ...]) -> Role:
    """The most likely role; "vector" for anything that is no matrix, "mlp_in" for unknown ones."""
    if min(as_matrix(shape)) < 2:
        return "vector"
    for pattern, role in _PATTERNS:
        if re.search(pattern, name.lower()):
            return role
    return "mlp_in"


def block_of(name: str) -> int | None:
    """The first number in a dotted name: the block, where blocks are numbered."""
    match = _BLOCK.search(name)
    return None if match is None else int(match[1])

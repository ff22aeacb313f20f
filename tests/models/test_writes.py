"""`Family.writes`: what it tells of the residual stream is what the network does with it."""

import numpy as np
import pytest
import torch
from test_folds import random_weights

from golfpack.models import FAMILIES

GOLF = {
    "vocab_size": 64, "num_layers": 3, "dim": 24, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 40,
}  # fmt: skip
LLAMA = {**GOLF, "head_dim": 6}
OTHER = {
    "vocab_size": 64, "num_layers": 2, "dim": 24, "num_heads": 4, "mlp_hidden": 40, "seq_len": 32,
}  # fmt: skip
BOTTLENECK = {
    "vocab_size": 64, "num_layers": 2, "embed_dim": 16, "dim": 24, "num_heads": 4, "num_kv_heads": 2,
    "attn_dim": 24, "mlp_hidden": 40,
}  # fmt: skip
CONFIGS = {
    "golf": ("golf", GOLF),
    "golf, parallel": ("golf", {**GOLF, "parallel_start": 1, "ln_scale": True}),
    "golf, skips": (
        "golf",
        {**GOLF, "skip_gates": True, "resid_norm": True, "attn_gate": "affine"},
    ),
    "golf, swiglu": ("golf", {**GOLF, "activation": "swiglu"}),
    "llama": ("llama", LLAMA),
    "gpt2": ("gpt2", OTHER),
    "gpt_neox": ("gpt_neox", {**OTHER, "rotary_dims": 4, "parallel": True}),
    "gpt_neox, one behind the other": ("gpt_neox", {**OTHER, "rotary_dims": 4, "parallel": False}),
    "alph": ("alph", OTHER),
    "bottleneck": ("bottleneck", BOTTLENECK),
    "bottleneck, gelu": ("bottleneck", {**BOTTLENECK, "activation": "gelu"}),
}


def opened(name):
    family, config = CONFIGS[name]
    spec = FAMILIES[family].spec(config)
    module = FAMILIES[family].module(spec.config, random_weights(spec, np.random.default_rng(0)))
    return spec, module.double(), FAMILIES[family].writes


def test_every_family_whose_blocks_are_known_is_here():
    told = {name for name, family in FAMILIES.items() if family.writes is not None}
    assert told == {family for family, _ in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stream_and_what_is_added_to_it_are_what_a_block_gives(name):
    spec, module, writes = opened(name)
    told = writes(module)
    entered, outputs, results = {}, {}, {}
    for tensor, where in told.items():
        block = module.get_submodule(where.block)
        if where.after is None:
            block.register_forward_pre_hook(
                lambda _m, args, t=tensor, w=where: entered.update({t: w.enters(args)})
            )
            block.register_forward_hook(lambda _m, _a, out, b=where.block: results.update({b: out}))
        module.get_submodule(tensor.removesuffix(".weight")).register_forward_hook(
            lambda _m, _a, out, t=tensor: outputs.update({t: out})
        )
    with torch.no_grad():
        module(torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0)))
    assert len(results) == spec.config["num_layers"]
    stream = {}
    for tensor, where in told.items():
        before = entered[tensor] if where.after is None else stream[where.after]
        add = outputs[tensor] if where.factor is None else where.factor * outputs[tensor]
        stream[tensor] = before + add
    last = {w.block: tensor for tensor, w in told.items()}
    for block, tensor in last.items():
        torch.testing.assert_close(stream[tensor], results[block], rtol=1e-12, atol=1e-12)


def test_where_a_norm_comes_behind_a_matrix_nothing_is_told():
    config = {**LLAMA, "post_norms": True}
    spec = FAMILIES["llama"].spec(config)
    module = FAMILIES["llama"].module(spec.config, random_weights(spec, np.random.default_rng(0)))
    assert FAMILIES["llama"].writes(module) == {}

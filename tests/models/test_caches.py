"""Every family, over its options: logits under a real cache are the full forward's."""

import numpy as np
import pytest
import test_alph
import test_bottleneck
import test_golf_features
import test_gpt2
import test_llama
import torch
from conftest import agree

from golfpack.kv.cache import StoredCache, observe
from golfpack.kv.policy import stored_as
from golfpack.models.alph.family import ALPH
from golfpack.models.bottleneck.family import BOTTLENECK
from golfpack.models.golf.family import GOLF
from golfpack.models.gpt2.family import GPT2
from golfpack.models.llama.family import LLAMA

TABLES = {
    "golf": (GOLF, test_golf_features.TINY, test_golf_features.FEATURES),
    "bottleneck": (BOTTLENECK, test_bottleneck.TOY, test_bottleneck.VARIANTS),
    "alph": (ALPH, test_alph.TOY, {"plain": {}, "capped": {"score_cap": 2.0}}),
    "llama": (LLAMA, test_llama.CONFIG, {"tied": {"tied": True}, "untied": {"tied": False}}),
    "gpt2": (GPT2, test_gpt2.CONFIG, {"plain": {}, "no biases": {"bias": False}}),
}
CASES = [
    pytest.param(family, {**config, **changes}, id=f"{name}: {case}")
    for name, (family, config, cases) in TABLES.items()
    for case, changes in cases.items()
]
# How far logits may be from the full forward's, as a share of the largest.
FAR = {"fp32": 1e-5, "fp16": 0.01, "q8_0": 0.06}


@pytest.mark.parametrize(("family", "config"), CASES)
def test_cached_logits_are_those_of_the_full_forward(family, config):
    config = family.spec(config).config
    rng = np.random.default_rng(0)
    weights = {
        t.name: rng.normal(0, 0.4, t.shape).astype(np.float32) for t in family.spec(config).tensors
    }
    model = family.module(config, weights)
    tokens = torch.from_numpy(rng.integers(0, config["vocab_size"], (2, 12)))
    full, plain = model(tokens), observe(model)
    for kind, share in FAR.items():
        for cuts in ([1] * 12, [7, 1, 4]) if kind == "fp32" else ([1] * 12,):
            # A residual shorter than the sequence: codes are read, too.
            cache = StoredCache(stored_as(plain, kind, residual=3), 12)
            agree(torch.cat([model(p, cache=cache) for p in tokens.split(cuts, 1)], 1), full, share)
            assert cache.bytes == cache.layout.bytes(12, batch=2)

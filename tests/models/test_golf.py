"""The golf family against a float64 numpy reference, its cache, its detection, its errors."""

import re

import numpy as np
import pytest
import torch
from conftest import agree
from golf_reference import TINY, reference_logits

from golfpack.errors import UsageError
from golfpack.models import find_family
from golfpack.models.base import KVCache, generate
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.detect import detect
from golfpack.models.golf.family import GOLF
from golfpack.spec import Hook

# What a baseline's shapes leave open; swiglu has tensors of its own.
ASSUMED = {
    "activation", "rope_base", "softcap", "softcap_kind", "seq_len", "rope_dims", "rope_scaling",
    "xsa_last_n", "ln_scale", "parallel_start", "resid_norm", "rope_base_odd",
}  # fmt: skip
VARIANTS = {
    "baseline": {},
    "leaky": {"activation": "leaky_relu2", "softcap": 5.0, "rope_base": 500.0},
    "untied": {"tied": False, "num_layers": 4, "num_kv_heads": 4},
    "swiglu-passes": {"activation": "swiglu", "passes": 3},
    "no-gain": {"q_gain": False, "num_layers": 1},
}


def random_weights(config):
    rng = np.random.default_rng(0)
    return {
        t.name: rng.normal(0, 0.3, t.shape).astype(np.float32) for t in GOLF.spec(config).tensors
    }


def tiny(**changes):
    config = GOLF.spec({**TINY, **changes}).config
    weights = random_weights(config)
    return config, weights, GOLF.module(config, weights)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_match_the_float64_reference(changes):
    config, weights, model = tiny(**changes)
    tokens = np.random.default_rng(1).integers(0, 11, (2, 13))
    logits = model(torch.from_numpy(tokens))
    assert logits.dtype == torch.float32
    expected = np.stack([reference_logits(weights, config, t) for t in tokens])
    np.testing.assert_allclose(logits.numpy(), expected, atol=2e-5)


def test_a_real_checkpoint_matches_the_float64_reference(shared):
    checkpoint = load_checkpoint(shared / "checkpoints/books_6x256/final_model.pt")
    model = checkpoint.module()
    tokens = np.random.default_rng(1).integers(0, 1024, 200)
    expected = reference_logits(checkpoint.weights, checkpoint.config, tokens)
    logits = model(torch.from_numpy(tokens)[None])[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_cached_logits_equal_the_full_forward(changes):
    _, _, model = tiny(**changes)
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 11, (2, 12)))
    cache = KVCache(12)
    parts = [model(part, cache=cache) for part in tokens.split([1, 4, 1, 6], dim=1)]
    agree(torch.cat(parts, dim=1), model(tokens))
    with pytest.raises(ValueError, match="holds 12 positions"):
        model(tokens[:, :1], cache=cache)


def test_generate_is_seeded_leaves_global_state_alone_and_follows_the_model():
    _, _, model = tiny(softcap=5.0)
    before = torch.get_rng_state()
    runs = [generate(model, 3, 8, 1, 0.8, torch.Generator().manual_seed(s)) for s in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert runs[0].shape == (3, 8)
    assert (runs[0][:, 0] == 1).all()
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    # A temperature near zero must pick the most likely token each time.
    greedy = generate(model, 2, 8, 1, 1e-6, torch.Generator().manual_seed(0))
    assert torch.equal(model(greedy[:, :-1]).argmax(-1), greedy[:, 1:])


def test_building_draws_no_random_numbers_and_shares_no_memory():
    before = torch.get_rng_state()
    config, weights, model = tiny()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in model.parameters())
    weights["tok_emb.weight"][:] = 7
    assert not (model.state_dict()["tok_emb.weight"] == 7).any()
    assert list(model.state_dict()) == [t.name for t in GOLF.spec(config).tensors]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_hooked_modules_compute_with_their_weight(changes):
    config, weights, model = tiny(**changes)
    seen = {}

    def record(name):
        return lambda module, args, out: seen.update({name: (args[0], out)})

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    model(torch.tensor([[1, 2, 3]]))
    for t in GOLF.spec(config).tensors:
        assert bool(t.hooks) == (t.role != "vector"), t.name
        w = torch.from_numpy(weights[t.name])
        for hook in t.hooks:
            x, y = seen[hook.module]
            expected = w[x] if hook.kind == "embedding" else x @ w.T
            agree(y, expected)


def test_spec_names_roles_and_blocks():
    spec = GOLF.spec({**TINY, "tied": False})
    assert spec["lm_head.weight"].role == "head"
    assert spec["tok_emb.weight"].hooks == (Hook("tok_emb", "embedding"),)
    assert GOLF.spec(TINY)["tok_emb.weight"].hooks == (Hook("tok_emb", "embedding"), Hook("head"))
    roles = {t.name: (t.role, t.block) for t in spec.tensors if t.name.startswith("blocks.2.")}
    assert roles["blocks.2.attn.c_k.weight"] == ("attn_k", 2)
    assert roles["blocks.2.mlp.proj.weight"] == ("mlp_out", 2)
    assert roles["blocks.2.resid_mix"] == ("vector", 2)
    assert spec["skip_weights"] == spec.tensors[0]


@pytest.mark.parametrize("name", ["baseline", "untied", "swiglu-passes"])
def test_detection_recovers_the_config_from_shapes(name):
    config = GOLF.spec({**TINY, **VARIANTS[name]}).config
    state = {n: torch.from_numpy(w) for n, w in random_weights(config).items()}
    found = detect(state)
    assert (found.family, found.config) == (GOLF, config)
    assert set(found.assumed) == ASSUMED - ({"activation"} if name == "swiglu-passes" else set())
    assert (found.state, found.notes) == (state, ())


def state_of(**changes):
    config = GOLF.spec({**TINY, **changes}).config
    return {n: torch.from_numpy(w) for n, w in random_weights(config).items()}


def test_overrides_set_what_shapes_cannot_tell():
    found = detect(state_of(), overrides={"rope_base": "500", "seq_len": 64, "softcap": 15})
    assert (found.config["rope_base"], found.config["seq_len"]) == (500.0, 64)
    assert set(found.assumed) == ASSUMED - {"rope_base", "seq_len", "softcap"}
    assert found.assumed["activation"] == "relu2"
    assert type(found.config["softcap"]) is float
    assert detect(state_of(), overrides={"dim": "16"}).config["dim"] == 16


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"rope_bass": "1"}, "the model has no option 'rope_bass'", "rope_base"),
        ({"seq_len": "long"}, "seq_len cannot be 'long'", "an integer: --set model.seq_len=1024"),
        ({"seq_len": True}, "seq_len cannot be True", "--set"),
        ({"tied": "maybe"}, "tied cannot be 'maybe'", "--set model.tied=true"),
        (
            {"layer_order": [0, 1]},
            "layer_order cannot be [0, 1]",
            "text: --set model.layer_order=VALUE",
        ),
        ({"dim": 32}, "dim=32 contradicts the checkpoint", "leave dim out"),
        ({"activation": "gelu"}, "unknown activation 'gelu'", "leaky_relu2"),
        ({"activation": "swiglu"}, "needs tensors named mlp.gate_up.weight", "relu2"),
        ({"softcap": "-1"}, "softcap must be positive", None),
    ],
)
def test_bad_overrides_are_usage_errors(overrides, message, hint):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        detect(state_of(), overrides=overrides)
    assert (hint or "") in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("skip_weights", (1, 8), "'skip_weights' has shape (1, 8), but the other tensors imply"),
        ("blocks.1.attn.c_v.weight", None, "no tensor 'blocks.1.attn.c_v.weight'"),
        ("blocks.0.attn.c_k.weight", None, "no tensor 'blocks.0.attn.c_k.weight'"),
        ("blocks.0.attn.c_k.weight", (7, 16), "'blocks.0.attn.c_k.weight' has 7 rows"),
        ("blocks.0.attn.q_gain", (3,), "do not fit 3 heads"),
        ("blocks.5.attn_scale", (16,), "no tensor 'blocks.3.attn_scale'"),
        ("dtg_gate", (1, 12), "'dtg_gate' (1, 12) is not part of the golf family"),
        ("tok_emb.weight", (11,), "'tok_emb.weight' has shape (11,)"),
        ("pass_gate", (1, 16), "'pass_gate' (1, 16) is not part"),
    ],
)
def test_contradicting_shapes_name_the_tensor(name, shape, message):
    state = state_of()
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.zeros(shape)
    with pytest.raises(UsageError, match=re.escape(message)):
        detect(state)


def test_without_gains_the_head_count_must_be_set():
    state = state_of(q_gain=False)
    with pytest.raises(UsageError, match=re.escape("2 (1 KV), 4 (2 KV), 8 (4 KV)")) as caught:
        detect(state)
    assert "--set model.num_heads=" in (caught.value.hint or "")
    config = detect(state, overrides={"num_heads": "4"}).config
    assert (config["num_heads"], config["num_kv_heads"], config["q_gain"]) == (4, 2, False)
    with pytest.raises(UsageError, match="do not fit 3 heads"):
        detect(state, overrides={"num_heads": 3})


def test_unknown_families_list_the_known_ones():
    with pytest.raises(UsageError, match="of no known model family") as caught:
        detect({"layers.0.w": torch.zeros(2, 2)})
    assert "golf: tok_emb.weight" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="unknown model family 'gulf'"):
        find_family("gulf")

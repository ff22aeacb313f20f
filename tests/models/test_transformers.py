"""Every architecture against transformers' own models, and the way from their configs and back."""

import json

import numpy as np
import pytest
import torch
from conftest import agree
from transformers_models import GPT2, MODELS, NEOX, SMALL, random_model

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import KVCache, settle
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.gpt_neox.family import GPT_NEOX
from golfpack.models.llama.family import LLAMA
from golfpack.models.restore import for_transformers, restored

TOKENS = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 40)))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(tmp_path, name):
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path)
    assert found.assumed == {}
    with torch.no_grad():
        # In float64 what is left are transformers' own float32 parts: angles, norms, the softmax.
        agree(found.module().double()(TOKENS), theirs.double()(TOKENS).logits.float())
    # The way back: the same names, shapes and values, and a config that tells the same.
    config, state = for_transformers(found)
    stored = theirs.float().state_dict()
    assert {n for n in state if n not in stored} <= {"embed_out.weight"}
    for tensor, value in state.items():
        assert torch.equal(value, stored[tensor.replace("embed_out", "lm_head")])
    assert config["architectures"] == theirs.config.architectures or not theirs.config.architectures
    told = theirs.config.to_dict()
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "model_type", "vocab_size"):
        assert config[key] == told[key]
    again = found.family.read_config(config)
    assert {k: found.config[k] for k in again} == again
    assert restored(found).keys() == state.keys()


def test_the_types_that_golfpack_reads_are_all_tried():
    import transformers_models as models

    kinds = {kind.removesuffix("Config").lower() for kind, _ in models.MODELS.values()}
    types = {t.replace("_", "") for f in FAMILIES.values() for t in f.model_types}
    assert kinds == types


def random_weights(family, config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        t.name: (rng.standard_normal(t.shape) / t.shape[-1] ** 0.5).astype(np.float32)
        for t in family.spec(config).tensors
    }


LLAMA_SHAPE = {
    "vocab_size": 19, "num_layers": 3, "dim": 16, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4,
    "mlp_hidden": 24,
}  # fmt: skip
NEOX_SHAPE = {
    "vocab_size": 19, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 20, "rotary_dims": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (LLAMA, {"window": 4, "window_layers": "wf", "attn_bias": "qkv", "softcap": 2.0}),
        (LLAMA, {"window": 1, "attn_softcap": 1.5, "query_scale": 3.0, "norm_plus_one": True}),
        (LLAMA, {"window": 3, "window_rope_base": 10.0, "post_norms": True, "qk_norm": True}),
        (GPT_NEOX, {"tied": True}),
        (GPT_NEOX, {"parallel": False, "attn_bias": False, "activation": "gelu_tanh"}),
    ],
    ids=lambda value: getattr(value, "name", None) or ",".join(value),
)
def test_decoding_with_a_cache_gives_the_same_logits(family, options):
    shape = LLAMA_SHAPE if family is LLAMA else NEOX_SHAPE
    config, _ = settle(family.config_type, shape, options)
    model = family.module(config, random_weights(family, config))
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 19, (2, 12)))
    full = model(tokens)
    for cuts in ([1] * 12, [5, 4, 3]):
        cache = KVCache(12)
        parts = [model(part, cache=cache) for part in tokens.split(cuts, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-4, rtol=0)


def test_a_window_ends_where_it_says():
    config, _ = settle(LLAMA.config_type, {**LLAMA_SHAPE, "num_layers": 1}, {"window": 3})
    model = LLAMA.module(config, random_weights(LLAMA, config))
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 2] = 17
    same = (model(tokens) == model(changed)).all(-1)[0]
    # A token sees itself and two before it: the third is seen from positions 2, 3 and 4.
    assert same.tolist() == [True, True, False, False, False, True, True, True]


def gpt_neox_logits(w, tokens, cfg):
    """Logits (T, V) of one sequence in float64, parallel residuals and exact GELU."""
    w = {n.removeprefix("gpt_neox."): a.astype(np.float64) for n, a in w.items()}
    erf = np.vectorize(__import__("math").erf)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + cfg["norm_eps"])
        return x * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def rotated(x):
        half = cfg["rotary_dims"] // 2
        freqs = cfg["rope_base"] ** (-np.arange(half) / half)
        angle = np.arange(len(x))[:, None] * freqs
        a, b = x[:, :half], x[:, half : 2 * half]
        turned = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        return np.concatenate([*turned, x[:, 2 * half :]], 1)

    x, size = w["embed_in.weight"][tokens], cfg["dim"] // cfg["num_heads"]
    for i in range(cfg["num_layers"]):
        at = f"layers.{i}."
        fused = linear(norm(x, at + "input_layernorm"), at + "attention.query_key_value")
        out = []
        for head in np.split(fused, cfg["num_heads"], axis=1):
            q, k, v = head[:, :size], head[:, size : 2 * size], head[:, 2 * size :]
            scores = rotated(q) @ rotated(k).T / np.sqrt(size)
            scores[np.triu_indices(len(x), 1)] = -np.inf
            p = np.exp(scores - scores.max(1, keepdims=True))
            out.append(p / p.sum(1, keepdims=True) @ v)
        inner = linear(norm(x, at + "post_attention_layernorm"), at + "mlp.dense_h_to_4h")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        x = x + linear(np.concatenate(out, 1), at + "attention.dense")
        x = x + linear(inner, at + "mlp.dense_4h_to_h")
    return norm(x, "final_layer_norm") @ w["embed_out.weight"].T


def test_gpt_neox_is_the_formula():
    config, _ = settle(GPT_NEOX.config_type, NEOX_SHAPE, {"rope_base": 50.0})
    weights = random_weights(GPT_NEOX, config)
    tokens = np.random.default_rng(3).integers(0, 19, 11)
    got = GPT_NEOX.module(config, weights).double()(torch.from_numpy(tokens)[None])[0].numpy()
    np.testing.assert_allclose(got, gpt_neox_logits(weights, tokens, config), atol=5e-6)


HF = {"model_type": "llama", **{k: v for k, v in SMALL.items() if v is not None}}


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("llama", {"model_type": "olmo2"}, "model_type 'olmo2'"),
        ("llama", {"sliding_window": 8}, "sliding_window 8"),
        ("llama", {"residual_multiplier": 0.2}, "residual_multiplier 0.2"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}"),
        ("llama", {"hidden_act": "relu2"}, "hidden_act 'relu2'"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "needs factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "factor cannot be -1"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "by kinds of layers"),
        ("llama", {"model_type": "mistral", "layer_types": ["full_attention"]}, "layer_types"),
        (
            "llama",
            {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["chunked"]},
            "layer_types ['chunked']",
        ),
        ("llama", {"model_type": "gemma2", "use_bidirectional_attention": True}, "bidirectional"),
        ("gpt2", {"n_langs": 5}, "n_langs 5"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("gpt_neox", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("gpt_neox", {"rope_scaling": {"type": "longrope"}}, "longrope"),
        ("gpt_neox", {"num_attention_heads": None}, "to know a head by"),
        ("gpt_neox", {"num_key_value_heads": 2}, "num_key_value_heads 2"),
    ],
)  # fmt: skip
def test_what_nobody_computes_is_refused_by_name(family, changes, says):
    told = {"llama": HF, "gpt2": GPT2, "gpt_neox": NEOX}[family]
    with pytest.raises(UsageError) as caught:
        FAMILIES[family].read_config({"model_type": family, **told, **changes})
    assert says in caught.value.message


def test_what_is_off_or_about_training_is_no_obstacle():
    plain = LLAMA.read_config(HF)
    beside = {
        "use_mrope": False, "rope_interleaved": False, "attention_dropout": 0.1,
        "torch_dtype": "float16",
        "pruned_heads": {}, "is_llama_config": True, "max_length": 20, "sliding_window": None,
    }  # fmt: skip
    assert LLAMA.read_config({**HF, **beside}) == plain
    assert plain["norm_eps"] == 1e-6  # transformers' own default, where config.json tells none


def test_an_unknown_architecture_is_named_with_the_way_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    torch.save({"backbone.weight": torch.ones(4, 4)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="model_type 'mamba'") as caught:
        load_checkpoint(tmp_path)
    assert "--model FILE.py:CLASS" in (caught.value.hint or "")


def test_options_that_no_class_has_are_named():
    config, _ = settle(LLAMA.config_type, LLAMA_SHAPE, {"softcap": 5.0, "qk_norm": True})
    assert LLAMA.transformers is not None
    with pytest.raises(UsageError, match="no class of transformers has these options together"):
        LLAMA.transformers.write(config, None)
    with pytest.raises(UsageError, match=r"llama has another .*softcap"):
        LLAMA.transformers.write(config, "llama")


def test_as_many_channels_are_rotated_on_the_way_back():
    """transformers multiplies a head's width by a float, and cuts off."""
    small, _ = settle(GPT_NEOX.config_type, {**NEOX_SHAPE, "num_heads": 1}, {})
    assert GPT_NEOX.transformers is not None
    assert GPT_NEOX.read_config is not None
    for head in range(2, 130):
        for rotary in range(0, head + 1, 2):
            config = {**small, "dim": head, "rotary_dims": rotary}
            written = GPT_NEOX.transformers.write(config, None)
            assert GPT_NEOX.read_config(written)["rotary_dims"] == rotary, (head, rotary)


def test_a_head_that_is_missing_is_not_taken_for_a_tied_one(tmp_path):
    config, _ = settle(LLAMA.config_type, LLAMA_SHAPE, {"tied": True})
    state = {n: torch.tensor(w) for n, w in random_weights(LLAMA, config).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    told = {
        **HF,
        "num_hidden_layers": 3,
        "hidden_size": 16,
        "intermediate_size": 24,
        "vocab_size": 19,
    }
    (tmp_path / "config.json").write_text(json.dumps({**told, "tie_word_embeddings": False}))
    with pytest.raises(UsageError, match="the head is not the embedding"):
        load_checkpoint(tmp_path)

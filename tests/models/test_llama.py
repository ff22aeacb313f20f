"""The llama family against a float64 reference and against transformers."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import agree
from llama_reference import reference_logits, to_meta

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.llama.family import LLAMA
from golfpack.models.llama.net import LlamaConfig

SHAPE = {
    "vocab_size": 19, "num_layers": 2, "dim": 16, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4,
    "mlp_hidden": 24, "tied": True, "rope_base": 500.0, "norm_eps": 1e-3, "seq_len": 32,
}  # fmt: skip
CONFIG = vars(LlamaConfig(**SHAPE))


def test_artifacts_say_what_the_first_ones_said():
    """Options that came later are left out at their defaults, so that no byte of old builds changes."""
    assert LLAMA.spec(CONFIG).stored_config == SHAPE


def random_weights(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        t.name: (rng.standard_normal(t.shape) / t.shape[-1] ** 0.5).astype(np.float32)
        for t in LLAMA.spec(config).tensors
    }


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_formula(tied):
    config = {**CONFIG, "tied": tied}
    weights = random_weights(config)
    tokens = np.random.default_rng(1).integers(0, 19, 11)
    model = LLAMA.module(config, weights).double()
    got = model(torch.from_numpy(tokens)[None])[0].numpy()
    expected = reference_logits(
        to_meta(weights, 4), tokens, layers=2, heads=4, kv_heads=2, base=500.0, eps=1e-3
    )
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ((49152, 30, 576, 9, 3, 64, 1536, True), 134_515_008),  # SmolLM-135M
        ((32000, 22, 2048, 32, 4, 64, 5632, False), 1_100_048_384),  # TinyLlama-1.1B
    ],
)
def test_parameters_are_counted_without_memory(config, parameters):
    assert LLAMA.spec(vars(LlamaConfig(*config))).numel == parameters


def test_decoding_with_a_cache_gives_the_same_logits():
    model = LLAMA.module(CONFIG, random_weights(CONFIG))
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 19, (2, 12)))
    full = model(tokens)
    for cuts in ([1] * 12, [5, 4, 3]):
        cache = KVCache(12)
        parts = [model(part, cache=cache) for part in tokens.split(cuts, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-4, rtol=0)


def save(path, weights, **config):
    path.parent.mkdir(exist_ok=True)
    tensors = {n: torch.tensor(w) for n, w in weights.items()}
    path.write_bytes(safetensors.torch.save(tensors))
    if config:
        (path.parent / "config.json").write_text(json.dumps(config))
    return path


HF = {
    "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16,
    "rope_theta": 500.0, "rms_norm_eps": 1e-3, "max_position_embeddings": 32, "hidden_act": "silu",
    "tie_word_embeddings": True, "rope_scaling": None, "attention_bias": False,
}  # fmt: skip


def test_config_json_tells_what_shapes_cannot(tmp_path):
    weights = random_weights(CONFIG)
    path = save(tmp_path / "model.safetensors", weights, **HF)
    found = load_checkpoint(path)
    assert (found.family, found.config, found.assumed) == (LLAMA, CONFIG, {})
    assert load_checkpoint(path, {"rope_base": 9.0}).config["rope_base"] == 9.0
    path = save(tmp_path / "alone" / "model.safetensors", weights)
    with pytest.raises(UsageError, match=r"heads open: 2 \(1 KV\), 4 \(2 KV\), 8 \(4 KV\)"):
        load_checkpoint(path)


def test_copies_of_tied_heads_and_rotary_tables_are_left_out(tmp_path):
    weights = random_weights(CONFIG)
    extra = {
        "lm_head.weight": weights["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    found = load_checkpoint(save(tmp_path / "m.safetensors", weights | extra, **HF))
    assert found.config == CONFIG
    assert set(found.weights) == set(weights)
    assert any("lm_head.weight is model.embed_tokens.weight" in n for n in found.notes)
    assert any("1 rotary tables" in n for n in found.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3'"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "rope_type 'longrope'"),
        ({"rope_scaling": "linear"}, "rope_scaling 'linear'"),
        ({"model_type": "olmo"}, "model_type 'olmo'"),
        ({"model_type": "qwen3"}, "qk_norm=True contradicts"),
        ({"hidden_act": "relu2"}, "hidden_act 'relu2'"),
        ({"attention_bias": True}, "attn_bias=all contradicts"),
        ({"num_attention_heads": 3}, "3 heads do not fit"),
        ({"num_attention_heads": "many"}, "num_heads cannot be 'many'"),
        ({"hidden_size": 32}, "dim=32 contradicts"),
    ],
)  # fmt: skip
def test_configs_it_cannot_compute_are_refused(tmp_path, changes, says):
    path = save(tmp_path / "m.safetensors", random_weights(CONFIG), **{**HF, **changes})
    with pytest.raises(UsageError) as caught:
        load_checkpoint(path)
    assert says in caught.value.message


def test_metas_names_are_the_same_model(tmp_path):
    weights = random_weights(CONFIG)
    path = save(tmp_path / "meta.safetensors", to_meta(weights, 4))
    with pytest.raises(UsageError, match="heads open"):
        load_checkpoint(path)
    found = load_checkpoint(path, {"num_heads": "4"})
    assert found.notes
    for name, w in weights.items():
        np.testing.assert_array_equal(found.weights[name], w)


def test_transformers_agrees(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=48, hidden_size=36, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=64,
            rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
        )
    )  # fmt: skip  # SmolLM's proportions: 9 heads, 3 KV heads, tied
    theirs.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert (found.config["num_heads"], found.config["tied"]) == (9, True)
    model = found.module()
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, 48, (2, 40)))
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
    agree(model(tokens), expected)

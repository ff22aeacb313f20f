"""Random small models of transformers, one or more of every architecture that golfpack reads."""

import pytest
import torch

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
NEOX = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 5}
# Name -> (class of the config, its options).
MODELS = {
    "llama": ("LlamaConfig", SMALL),
    "llama tied": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True, "head_dim": 10}),
    "llama biases": ("LlamaConfig", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama gelu": ("LlamaConfig", {**SMALL, "hidden_act": "gelu"}),
    "llama linear": (
        "LlamaConfig",
        {**SMALL, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0}},
    ),
    "llama dynamic": (
        "LlamaConfig",
        {
            **SMALL, "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 50.0},
        },
    ),
    "llama 3": ("LlamaConfig", {**SMALL, "rope_parameters": LLAMA3}),
    "llama yarn": ("LlamaConfig", {**SMALL, "head_dim": 16, "rope_parameters": YARN}),
    "llama yarn mscale": (
        "LlamaConfig",
        {
            **SMALL, "head_dim": 16,
            "rope_parameters": {
                **YARN, "mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 8.0, "beta_slow": 0.5,
                "truncate": False,
            },
        },
    ),
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": 7}),
    "mistral full": ("MistralConfig", {**SMALL, "sliding_window": None}),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen2 window": (
        "Qwen2Config",
        {**SMALL, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen3 biases": ("Qwen3Config", {**SMALL, "head_dim": 12, "attention_bias": True}),
    "gemma": ("GemmaConfig", {**SMALL, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**SMALL, **GEMMA, "final_logit_softcapping": 3.0}),
    "gemma2 uncapped": (
        "Gemma2Config",
        {**SMALL, **GEMMA, "final_logit_softcapping": None, "attn_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **SMALL, **GEMMA, "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "gpt2": ("GPT2Config", GPT2),
    "gpt2 untied": (
        "GPT2Config",
        {**GPT2, "tie_word_embeddings": False, "n_inner": 32, "activation_function": "gelu"},
    ),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "gpt_neox serial": (
        "GPTNeoXConfig",
        {
            **NEOX, "use_parallel_residual": False, "tie_word_embeddings": True, "attention_bias": False,
            "hidden_act": "gelu_new",
            "rope_parameters": {
                "rope_theta": 50.0, "partial_rotary_factor": 1.0, "rope_type": "default",
            },
        },
    ),
}  # fmt: skip


def random_model(name, dtype=torch.float32):
    """The model, every parameter drawn so that none of them is idle; skips without transformers."""
    transformers = pytest.importorskip("transformers")
    kind, options = MODELS[name]
    config = getattr(transformers, kind)(**options)
    with torch.random.fork_rng():
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            scale = 0.2 if p.ndim < 2 else p.shape[-1] ** -0.5
            p.copy_(p.mean() + scale * torch.randn(p.shape, generator=generator))
    return model.eval().to(dtype)

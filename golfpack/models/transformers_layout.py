"""What checkpoints written by transformers have in common: their config.json, and tied heads."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from golfpack.errors import UsageError
from golfpack.models.base import StateDict

# Keys of config.json that do not change what the network computes: of training, of generation, of other
# programs. What is not here and is not read by the family is refused by name.
_HARMLESS = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path",
    "architectures", "attention_dropout", "attn_pdrop", "bos_token_id", "cache_implementation",
    "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id", "finetuning_task",
    "hidden_dropout", "id2label", "initializer_factor", "initializer_range", "is_llama_config",
    "keys_to_ignore_at_inference", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "reorder_and_upcast_attn", "resid_pdrop", "return_dict", "sep_token_id", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "use_cache",
})  # fmt: skip
# The same of generation, which older versions wrote into config.json.
_GENERATION = frozenset({
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
    "temperature", "tf_legacy_loss", "top_k", "top_p", "typical_p",
})  # fmt: skip
# model_type -> ids of the tokens that begin, end and fill up a text, where config.json tells none.
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LLAMA, _GEMMA, _NONE = (1, 2, None), (2, 1, 0), (None, None, None)
TOKEN_IDS: dict[str, dict[str, int | None]] = {
    model_type: dict(zip(_IDS, ids, strict=True))
    for model_type, ids in {
        "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _NONE, "qwen3": _NONE, "gemma": _GEMMA,
        "gemma2": _GEMMA, "gemma3_text": _GEMMA, "gpt2": (50256, 50256, None),
        "gpt_neox": (0, 2, None),
    }.items()
}  # fmt: skip
# What a config says where it leaves a variant out.
_OFF = (None, False, {}, [])
_WRITE = "write the network as a module and name it with --model FILE.py:CLASS"


def check_model_type(stored: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise UsageError where config.json says that the tensors are of another architecture."""
    found = stored.get("model_type")
    if found is not None and found not in known:
        raise unknown_type(found, known)


def unknown_type(found: Any, known: Collection[str]) -> UsageError:
    """The error for a model_type of config.json that no family computes."""
    return UsageError(
        f"config.json says model_type {found!r}; golfpack computes {', '.join(known)}",
        f"{_WRITE} (docs/writing_a_family.md), or pack the bare tensors with --model tensors "
        "--data-free",
    )


def refuse_options(stored: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raise UsageError where config.json asks for a variant that the network does not compute.

    Args:
        stored: the config; a key left out or null means the supported value.
        supported: key -> the one value that is supported.
    """
    for key, value in supported.items():
        found = stored.get(key)
        if found is not None and found != value:
            raise UsageError(
                f"config.json says {key} {found!r}; this family computes {value!r} only", _WRITE
            )


def refuse_unknown(stored: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise UsageError for what a transformers config says and nobody here reads.

    Nothing is left aside in silence: it may change what the network computes. What is switched off
    (null, false or empty) changes nothing.

    Args:
        stored: the config; one that is not transformers' (without a model_type) is not judged.
        known: the keys that the family reads.
    """
    if "model_type" not in stored:
        return
    harmless = _HARMLESS | _GENERATION
    for key, value in stored.items():
        if key not in harmless and key not in known and value not in _OFF:
            raise UsageError(
                f"config.json says {key} {value!r}, which golfpack does not compute for model_type "
                f"{stored['model_type']!r}",
                f"{_WRITE}; where {key} is not about the network, take it out of config.json",
            )


def told_token_ids(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of the tokens that begin, end and fill up a text, as config.json tells them."""
    return {key: stored[key] for key in _IDS if key in stored}


def without_copy(state: StateDict, name: str, original: str) -> tuple[StateDict, list[str]]:
    """The state dict without tensor `name` where it only repeats `original`, and a note on that.

    Shapes without values (the meta device) cannot tell, and stay.
    """
    a, b = state.get(name), state.get(original)
    if a is None or b is None or a.is_meta or b.is_meta:
        return state, []
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
        return state, []
    rest = {n: t for n, t in state.items() if n != name}
    return rest, [f"{name} is {original} (tied) and is kept once"]

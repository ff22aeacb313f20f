"""`golfpack unpack --hf`: an artifact as a folder that transformers loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from golfpack.artifact import model_of
from golfpack.base.documents import read_json
from golfpack.base.files import write_atomically
from golfpack.data import hf_tokenizer, llama2c_tokenizer
from golfpack.data.sentencepiece_json import hub_tokenizer
from golfpack.errors import UsageError, unreadable
from golfpack.inspect.inspect import UnpackReport
from golfpack.models.model import Model
from golfpack.models.restore import for_transformers
from golfpack.packer.format.loader import load

# What a folder has besides config.json and weights, as transformers and its tokenizers write it.
_TAKEN = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json"}


def unpack_transformers(
    path: Path,
    folder: Path,
    *,
    like: Path | None = None,
    tokenizer: Path | None = None,
    dtype: str = "source",
    force: bool = False,
) -> UnpackReport:
    """Write a folder that `AutoModelForCausalLM` and, with a tokenizer, `AutoTokenizer` load.

    Args:
        like: a folder of transformers', such as the checkpoint's: its config.json,
            generation_config.json and tokenizer are taken. None: config.json is the artifact's.
        tokenizer: a tokenizer.json, a SentencePiece BPE model or llama2.c's, in place of that. Where
            neither brings one, the one inside the artifact is taken.
        dtype: "source" for the checkpoint's, or one for all tensors.
        force: replace files that exist.

    Raises:
        UsageError: transformers has no class for the model, `like` is of another one, an unusable
            tokenizer, or files exist. CorruptError: a damaged artifact.
    """
    artifact = load(path)
    model = model_of(artifact, path)
    told = None if like is None else read_json(like / "config.json", "give transformers' folder")
    config, state = for_transformers(model, dtype, told)
    files: dict[str, bytes] = {} if like is None else _taken(like)
    notes: list[str] = []
    if tokenizer is not None:
        if not tokenizer.is_file():
            raise unreadable(tokenizer, what="tokenizer ")
        files = {n: d for n, d in files.items() if n == "generation_config.json"}
        files |= _tokenizer_files(tokenizer.read_bytes(), tokenizer, model)
    elif not _TOKENIZERS & files.keys():
        files |= _inside(model, notes)
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    files["model.safetensors"] = safetensors.torch.save(
        {name: t.contiguous() for name, t in state.items()}, metadata={"format": "pt"}
    )
    _write(folder, files, force=force)
    return UnpackReport(
        artifact=str(path),
        artifact_sha256=artifact.container.sha256,
        output=str(folder),
        model_type=config["model_type"],
        dtype=config["dtype"],
        files={name: len(data) for name, data in sorted(files.items())},
        tensors=len(state),
        notes=notes,
    )


def _taken(like: Path) -> dict[str, bytes]:
    return {name: (like / name).read_bytes() for name in _TAKEN if (like / name).is_file()}


def _inside(model: Model, notes: list[str]) -> dict[str, bytes]:
    """The files of the tokenizer inside the artifact; where there is none for transformers, a note."""
    how = "--like CHECKPOINT_FOLDER or --tokenizer FILE adds one"
    if model.tokenizer is None:
        notes.append(f"no tokenizer is in the folder: {how}")
        return {}
    name, data = model.tokenizer
    try:
        return _tokenizer_files(data, Path(name), model)
    except UsageError as e:
        notes.append(f"no tokenizer is in the folder: of the one inside, {e.message}; {how}")
        return {}


def _tokenizer_files(data: bytes, path: Path, model: Model) -> dict[str, bytes]:
    """tokenizer.json and what says of which class it is; `path` is for messages."""
    if hf_tokenizer.looks_like(data):
        special: Mapping[str, Any] = {}
    else:
        if llama2c_tokenizer.looks_like(data):
            data = llama2c_tokenizer.sentencepiece_model(data, path)
        found = hub_tokenizer(data, path)
        data, special = found.tokenizer_json.encode(), found.special
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config["seq_len"],
        **special,
    }
    return {
        "tokenizer.json": data,
        "tokenizer_config.json": (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def _write(folder: Path, files: Mapping[str, bytes], *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "name a folder to write into")
    there = [name for name in files if (folder / name).exists()]
    # Weights of another checkpoint beside these would be found first.
    there += [p.name for p in sorted(folder.glob("*.index.json"))]
    if there and not force:
        raise UsageError(
            f"{folder} holds {', '.join(there[:3])} already",
            "choose another folder, or add --force",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index in folder.glob("*.index.json"):
            index.unlink()
    except OSError as e:
        raise UsageError(f"cannot write into {folder}: {e.strerror}", "check the folder") from e
    for name, data in files.items():
        write_atomically(folder / name, data)

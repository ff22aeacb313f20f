"""Checkpoints that are folders: one file, shards with an index, what is beside them, what is wrong."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from golfpack.errors import UsageError
from golfpack.models import files
from golfpack.models.checkpoint import load_checkpoint, peek_spec, sidecar_path
from golfpack.models.folder import (
    checkpoint_bytes,
    checkpoint_files,
    checkpoint_stem,
    find_tokenizer,
)
from golfpack.models.gpt2.family import GPT2
from golfpack.models.gpt2.net import Gpt2Config

CONFIG = vars(
    Gpt2Config(vocab_size=23, num_layers=2, dim=12, num_heads=3, mlp_hidden=20, seq_len=16)
)
HF = {"model_type": "gpt2", "n_head": 3}


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {
        t.name: torch.from_numpy(rng.standard_normal(t.shape).astype(np.float32))
        for t in GPT2.spec(CONFIG).tensors
    }


def write_shards(folder, weights, count=3):
    """As transformers does it."""
    folder.mkdir(exist_ok=True)
    names, index = sorted(weights), {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = {n: weights[n] for n in names[i::count]}
        (folder / file).write_bytes(safetensors.torch.save(part, metadata={"format": "pt"}))
        index |= dict.fromkeys(part, file)
    total = sum(t.nbytes for t in weights.values())
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(HF))


def test_a_folder_its_index_and_one_file_are_the_same_model(tmp_path, weights, monkeypatch):
    write_shards(tmp_path / "shards", weights)
    (tmp_path / "one").mkdir()
    one = tmp_path / "one" / "model.safetensors"
    one.write_bytes(safetensors.torch.save(weights))
    (tmp_path / "one" / "config.json").write_text(json.dumps(HF))
    index = tmp_path / "shards" / "model.safetensors.index.json"
    found = [load_checkpoint(p) for p in (tmp_path / "shards", index, tmp_path / "one", one)]
    for model in found:
        assert model.config == CONFIG
        for name, w in weights.items():
            assert np.array_equal(model.weights[name], w.numpy())
    assert found[0].sha256 == found[1].sha256
    assert found[2].sha256 == found[3].sha256
    shards = sorted((tmp_path / "shards").glob("model-*"))
    assert checkpoint_bytes(tmp_path / "shards") == sum(p.stat().st_size for p in shards)
    # Large ones are looked at before they are read.
    monkeypatch.setattr(files, "WORTH_A_PEEK", 1)
    assert peek_spec(tmp_path / "shards") == GPT2.spec(CONFIG)
    # What is written beside them is found again, whichever way they are named.
    sidecar_path(tmp_path / "shards").write_text('{"norm_eps": 0.5}')
    assert sidecar_path(index).name == "model.config.json"
    assert load_checkpoint(index).config["norm_eps"] == 0.5


def test_a_shard_alone_is_answered_with_what_to_name(tmp_path, weights):
    write_shards(tmp_path / "a", weights)
    shard = tmp_path / "a" / "model-00002-of-00003.safetensors"
    with pytest.raises(UsageError, match="one of 3 shards") as caught:
        load_checkpoint(shard)
    assert str(tmp_path / "a" / "model.safetensors.index.json") in (caught.value.hint or "")
    (tmp_path / "a" / "model.safetensors.index.json").unlink()
    with pytest.raises(UsageError, match=r"their index .* is not there"):
        load_checkpoint(shard)


def test_shards_that_do_not_fit_their_index_are_refused(tmp_path, weights):
    write_shards(tmp_path / "a", weights)
    index = tmp_path / "a" / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    first = tmp_path / "a" / "model-00001-of-00003.safetensors"
    for changes, says in (
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"x": "../x.safetensors"}}, "no weight_map"),
        ({"weight_map": {**told["weight_map"], "x": first.name}}, "has tensor 'x' in"),
        ({"weight_map": {n: f for n, f in told["weight_map"].items() if n != "wpe.weight"}},
         "hold tensor 'wpe.weight'"),
    ):  # fmt: skip
        index.write_text(json.dumps({**told, **changes}))
        with pytest.raises(UsageError, match=says):
            load_checkpoint(tmp_path / "a")
    index.write_text(json.dumps(told))
    first.unlink()
    with pytest.raises(UsageError, match=f"{first.name} is not there"):
        load_checkpoint(tmp_path / "a")


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(UsageError, match="it is empty"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"it holds config\.json"):
        load_checkpoint(tmp_path)


def test_names_and_tokenizers_of_folders(tmp_path, monkeypatch):
    folder = tmp_path / "SmolLM-1.7B"
    folder.mkdir()
    assert find_tokenizer(folder) is None
    (folder / "tokenizer.model").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert checkpoint_stem(folder) == "SmolLM-1.7B"
    assert checkpoint_stem(folder / "model.safetensors.index.json") == "SmolLM-1.7B"
    assert checkpoint_stem(folder / "model.int8.ptz") == "model"
    monkeypatch.chdir(folder)
    assert checkpoint_stem(type(folder)(".")) == "SmolLM-1.7B"
    assert find_tokenizer(folder) == folder / "tokenizer.model"
    (folder / "tokenizer.json").write_bytes(b"")
    assert find_tokenizer(folder) == folder / "tokenizer.json"
    assert find_tokenizer(folder / "other.safetensors") is None
    assert checkpoint_files(folder / "absent.pt").weights == (folder / "absent.pt",)

"""There and back: transformers' folder -> artifact -> a folder that transformers loads."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import agree

import golfpack
from golfpack.data.sentencepiece_json import hub_tokenizer
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import load_tokenizer, train_tokenizer
from golfpack.errors import CorruptError, UsageError
from golfpack.inspect.inspect import unpack
from golfpack.inspect.transformers_folder import unpack_transformers
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.container import assemble
from golfpack.packer.format.loader import load

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from transformers_models import random_model

TOKENS = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 40)))
# One of every architecture, and one that is bfloat16.
TRIPS = [
    "llama biases", "llama 3", "mistral", "qwen2 window", "qwen3", "gemma", "gemma2", "gemma3", "gpt2",
    "gpt2 untied", "gpt_neox",
]  # fmt: skip


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.fixture
def trip(tmp_path):
    """Build a random model of transformers at 4 bits per weight: its folder, and the artifact."""

    def run(name, dtype=torch.float32, **options):
        random_model(name, dtype).save_pretrained(tmp_path / "ckpt", **options)
        golfpack.build(
            tmp_path / "ckpt",
            budget="4bpw",
            data_free=True,
            output=tmp_path / "x.golf",
            cache=False,
        )
        return tmp_path / "ckpt", tmp_path / "x.golf"

    return run


@pytest.mark.parametrize("name", TRIPS)
def test_there_and_back(trip, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    folder, path = trip(name)
    unpack_transformers(path, tmp_path / "out")
    before, after = tensors_of(folder), tensors_of(tmp_path / "out")
    form = lambda tensors: {n: (t.shape, t.dtype) for n, t in tensors.items()}  # noqa: E731
    assert form(after) == form(before)
    artifact = golfpack.load(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    with torch.no_grad():
        ours = artifact.module()(TOKENS)
        expected = theirs(TOKENS).logits
        assert float((ours - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
        agree(artifact.to_transformers()(TOKENS).logits, expected)
    # What was written is a checkpoint again, of the same weights and options.
    again = load_checkpoint(tmp_path / "out")
    assert (again.config, again.spec.source) == (artifact.config, artifact._model.spec.source)
    for tensor, w in artifact.weights().items():
        assert np.array_equal(again.weights[tensor], w)
    # So is what unpack writes, by the checkpoint's own names.
    unpack(path, tmp_path / "x.safetensors")
    flat = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert {n: t.shape for n, t in flat.items()} == {n: t.shape for n, t in before.items()}
    assert load_checkpoint(tmp_path / "x.safetensors").config == artifact.config


def test_tensors_have_the_dtype_of_the_checkpoint(trip, tmp_path):
    transformers = pytest.importorskip("transformers")
    _, path = trip("llama tied", torch.bfloat16, max_shard_size="10KB")
    report = unpack_transformers(path, tmp_path / "out")
    exact = golfpack.load(path).weights()
    assert report.dtype == "bfloat16"
    for name, t in tensors_of(tmp_path / "out").items():
        assert torch.equal(t, torch.tensor(exact[name]).bfloat16())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    unpack_transformers(path, tmp_path / "exact", dtype="float32")
    for name, t in tensors_of(tmp_path / "exact").items():
        assert np.array_equal(t.numpy(), exact[name])
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["dtype"] == "float32"


def test_one_dtype_of_matrices_and_another_of_the_rest(tmp_path):
    """As trainers mix them; a tensor that is of neither is named."""
    random_model("llama tied", torch.bfloat16).save_pretrained(tmp_path / "ckpt")
    weights = tmp_path / "ckpt" / "model.safetensors"
    odd = "model.layers.0.mlp.up_proj.weight"
    mixed = {
        n: t.half() if n == odd else t.float() if t.ndim == 1 else t
        for n, t in tensors_of(tmp_path / "ckpt").items()
    }
    weights.write_bytes(safetensors.torch.save(mixed))
    source = load_checkpoint(tmp_path / "ckpt").spec.source
    assert source == {"dtype": "bf16/f32", "dtypes": {odd: "f16"}}
    golfpack.build(
        tmp_path / "ckpt", budget="4bpw", data_free=True, output=tmp_path / "x.golf", cache=False
    )
    unpack_transformers(tmp_path / "x.golf", tmp_path / "out")
    after = tensors_of(tmp_path / "out")
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in mixed.items()}


def test_config_and_tokenizer_of_another_folder(trip, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder, path = trip("gpt2")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(["abab cdcd"], tokenizers.trainers.BpeTrainer(vocab_size=12))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    report = unpack_transformers(path, tmp_path / "out", like=folder)
    assert report.notes == []
    assert {"generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(
        report.files
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("abab cdcd").input_ids) == "abab cdcd"
    told, wrote = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out"))
    assert {k: v for k, v in told.items() if k != "transformers_version"} == wrote
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="of model_type 'llama', the artifact of family gpt2"):
        unpack_transformers(path, tmp_path / "third", like=tmp_path)
    other = json.loads((folder / "config.json").read_text()) | {"layer_norm_epsilon": 0.5}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match=r"norm_eps \(0\.5, not 1e-05\)"):
        unpack_transformers(path, tmp_path / "third", like=folder)
    with pytest.raises(UsageError, match=r"holds config\.json"):
        unpack_transformers(path, tmp_path / "out")
    # Shards of another checkpoint would be found before what is written.
    (tmp_path / "out" / "model.safetensors.index.json").write_text("{}")
    unpack_transformers(path, tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    assert unpack_transformers(path, tmp_path / "bare").notes[0].startswith("no tokenizer")


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_model_becomes_a_tokenizer_json(tmp_path, prefix):
    """Of the models that the challenge's trainer makes, and of those with a space put before."""
    tokenizers = pytest.importorskip("tokenizers")
    texts = [
        "the cat sat on the mat, the hat and the bat" * 3,
        "a  b\n\tc é ☃ 1234",
        "",
        " x ",
        "<s>",
    ]
    train_tokenizer([texts[0]], 290, tmp_path / "t.model")
    data = (tmp_path / "t.model").read_bytes()
    if prefix:  # NormalizerSpec.add_dummy_prefix, field 3, which the trainer has written as 0
        data = data.replace(
            b"\x0a\x08identity\x12\x00\x18\x00", b"\x0a\x08identity\x12\x00\x18\x01"
        )
        (tmp_path / "t.model").write_bytes(data)
    sp = load_tokenizer(tmp_path / "t.model")
    assert (sp.Encode("the")[0] == sp.Encode(" the")[0]) is False or prefix
    found = hub_tokenizer(data, tmp_path / "t.model")
    (tmp_path / "tokenizer.json").write_text(found.tokenizer_json)
    theirs = tokenizers.Tokenizer.from_str(found.tokenizer_json)
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    for text in texts[:-1]:
        ids = sp.Encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert ours.Decode(ids) == sp.Decode(ids)
    assert theirs.encode("the").ids[0] == sp.bos_id()
    assert found.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    with pytest.raises(UsageError, match="is not a SentencePiece model"):
        hub_tokenizer(b"\xff" * 40, tmp_path / "x.model")


def test_families_that_transformers_lacks_are_refused(tmp_path):
    torch.save({"w": torch.ones(8, 8)}, tmp_path / "w.pt")
    golfpack.build(tmp_path / "w.pt", lossless=True, output=tmp_path / "w.golf")
    with pytest.raises(UsageError, match="no class for models of family tensors") as caught:
        unpack_transformers(tmp_path / "w.golf", tmp_path / "out")
    assert "llama, gpt2, gpt_neox" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no class for models of family tensors"):
        golfpack.load(tmp_path / "w.golf").to_transformers()
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        unpack(tmp_path / "w.golf", tmp_path / "w.safetensors", dtype="int8")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([], "the manifest's source is not an object"),
        ({"dtype": "f12"}, "dtype 'f12'"),
        ({"dtype": "nn"}, "dtype 'nn'"),
        ({"form": 7}, "form cannot be 7"),
        ({"form": "sideways"}, "form 'sideways'"),
        ({"form": "meta", "later": 1}, None),
    ],
)
def test_what_an_artifact_says_of_its_source_is_checked(trip, tmp_path, source, says):
    path = trip("llama tied")[1]
    container = load(path).container
    manifest = {k: v for k, v in container.manifest.items() if k not in ("streams", "source")}
    path.write_bytes(assemble({**manifest, "source": source}, container.streams))
    if says is None:  # a later golfpack's words are passed over
        unpack(path, tmp_path / "y.safetensors")
        names = safetensors.torch.load_file(tmp_path / "y.safetensors")
        assert "layers.0.attention.wq.weight" in names
        return
    with pytest.raises(CorruptError, match=says):
        unpack(path, tmp_path / "y.safetensors")


def test_a_checkpoint_without_a_tokenizer_is_scored_in_nats(trip, tmp_path):
    folder, path = trip("llama tied")
    write_shard(tmp_path / "tokens.bin", np.random.default_rng(0).integers(0, 64, 300))
    found = golfpack.evaluate(path, str(tmp_path / "tokens.bin"), baseline=folder)
    assert (found.val_bpb, found.quant_gap, found.scored_bytes, found.tokenizer) == (None,) * 4
    assert found.float_loss is not None
    sizes = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    floats = golfpack.evaluate(folder, str(tmp_path / "tokens.bin"))
    assert (floats.val_loss, floats.model_bytes) == (found.float_loss, sizes)
    with pytest.raises(UsageError, match="trains by documents"):
        golfpack.evaluate(path, str(tmp_path / "tokens.bin"), ttt="lora")
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(UsageError, match="is text, which needs a tokenizer"):
        golfpack.evaluate(path, str(tmp_path / "x.txt"))
    write_shard(tmp_path / "tokens.bin", np.array([1, 64]))
    with pytest.raises(UsageError, match="token 64 at position 1 is outside"):
        golfpack.evaluate(path, str(tmp_path / "tokens.bin"))


def test_the_tokenizer_inside_comes_along(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = "the cat sat on the mat and the dog sat on the cat " * 8
    train_tokenizer([text], 280, tmp_path / "t.model")
    config = transformers.LlamaConfig(
        vocab_size=280, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "ckpt")
    golfpack.build(
        tmp_path / "ckpt", lossless=True, tokenizer=tmp_path / "t.model", with_tokenizer=True,
        output=tmp_path / "x.golf", cache=False,
    )  # fmt: skip
    assert not unpack_transformers(tmp_path / "x.golf", tmp_path / "out").notes
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = load_tokenizer(tmp_path / "t.model").encode("the dog sat")
    assert theirs("the dog sat", add_special_tokens=False).input_ids == ids
    (tmp_path / "held.txt").write_text(text)
    found = golfpack.evaluate(tmp_path / "x.golf", str(tmp_path / "held.txt"), legality=False)
    assert found.scored_bytes == len(text.encode())
    assert found.tokenizer == f"{tmp_path / 'x.golf'} (t.model inside)"


@pytest.mark.slow  # an output for each of 70,000 tokens
def test_token_ids_beyond_uint16_from_calibration_to_score(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=70_000, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "ckpt")
    ids = np.random.default_rng(0).integers(0, 70_000, 1200)
    write_shard(tmp_path / "train.bin", ids)
    np.save(tmp_path / "held.npy", ids[:100])
    built = golfpack.build(
        tmp_path / "ckpt", budget="12bpw", calib=str(tmp_path / "train.bin"), calib_tokens=64,
        output=tmp_path / "x.golf", recipe="int8-zlib", cache=False,
    )  # fmt: skip
    assert built.measured_kl is not None
    # Without the checks, one of which weighs every token against every other.
    found = golfpack.evaluate(tmp_path / "x.golf", str(tmp_path / "held.npy"), legality=False)
    assert found.scored_tokens == 99
    assert abs(found.val_loss - np.log(70_000)) < 0.1


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("llama tied", "model."), ("gpt2", "transformer."), ("gpt_neox serial", "gpt_neox.")],
)
def test_a_checkpoint_of_the_trunk_alone_comes_back_as_one(tmp_path, name, prefix):
    """As GPT-2 itself is on the hub: transformers finds the prefix by itself."""
    transformers = pytest.importorskip("transformers")
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path / "ckpt")
    # Copies: the file under them is about to be another.
    bare = {n.removeprefix(prefix): t.clone() for n, t in tensors_of(tmp_path / "ckpt").items()}
    (tmp_path / "ckpt" / "model.safetensors").write_bytes(safetensors.torch.save(bare))
    golfpack.build(tmp_path / "ckpt", lossless=True, output=tmp_path / "x.golf", cache=False)
    unpack_transformers(tmp_path / "x.golf", tmp_path / "out")
    after = tensors_of(tmp_path / "out")
    assert after.keys() == bare.keys()
    for tensor, value in bare.items():
        assert torch.equal(after[tensor], value)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        agree(again(TOKENS).logits, theirs(TOKENS).logits)
        agree(
            golfpack.load(tmp_path / "x.golf").to_transformers()(TOKENS).logits,
            theirs(TOKENS).logits,
        )

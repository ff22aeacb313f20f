"""Models of classes golfpack has never seen: from a file and a state dict to an artifact and its bpb."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import agree, asked
from typer.testing import CliRunner

from golfpack.artifact import open_model
from golfpack.build.run import build
from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.cli import app
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import CorruptError, ExitCode, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.inspect.inspect import inspect, unpack
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.choose import choose_family
from golfpack.models.user.flash_attention import stand_in
from golfpack.models.user.open_class import code_sha256, open_class, parse_args
from golfpack.packer.format.container import assemble
from golfpack.packer.format.loader import load

NET = Path(__file__).with_name("user_net.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(NET.read_text())
    (folder / "helper.py").write_text("SCALE = 2.0\n")
    return folder


@pytest.fixture(scope="module")
def ref(folder):
    return f"{folder / 'net.py'}:Net"


@pytest.fixture(scope="module")
def family(ref):
    """The class's family, as --model and --model-args give it."""
    return choose_family(ref, ["vocab=300"])


@pytest.fixture(scope="module")
def net(folder, ref):
    """The class's own instance, and its state dict as any training script saves it."""
    module = open_class(folder / "net.py", "Net")(vocab=300)
    gen = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=gen) / max(p.shape) ** 0.5)
    torch.save({"model": module.state_dict(), "step": 3}, folder / "net.pt")
    return module


@pytest.fixture(scope="module")
def data(folder):
    words = ("lorem", "ipsum", "dolor", "sit", "amet")
    documents = [" ".join(random.Random(i).choices(words, k=400)) for i in range(12)]
    model = folder / "bpe.model"
    train_tokenizer(
        [*documents, "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOP 0123456789"], 300, model
    )
    write_shard(folder / "train.bin", encode_documents(load_tokenizer(model), documents))
    return folder / "train.bin", model


def test_the_state_dict_is_read_as_the_class_ties_it(folder, family, net):
    found = load_checkpoint(folder / "net.pt", family=family)
    model = found.module()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens), net(tokens)[0])
    names = {n for n, _ in net.named_parameters()}
    assert set(found.weights) == names  # "again" and the mask are not stored
    assert found.config == {
        "class_name": "Net", "vocab_size": 300, "args": '{"vocab":300}', "seq_len": 1024,
    }  # fmt: skip
    said = "; ".join(found.notes)
    assert "again.qkv is mixer.qkv (tied)" in said
    assert "mixer.mask left out" in said
    spec = {t.name: t for t in found.spec.tensors}
    assert [(h.kind) for h in spec["emb.weight"].hooks] == ["embedding", "linear"]
    assert [len(spec[n].hooks) for n in ("mixer.qkv", "mixer.out_proj.weight", "up", "gate")] == [
        1, 1, 0, 0,
    ]  # fmt: skip  # `up` is used as (in, out): no rows of outputs, so its Fisher is measured instead
    roles = [spec[n].role for n in ("emb.weight", "mixer.out_proj.weight", "gate")]
    assert roles[0] == "embed"
    assert roles[2] == "vector"


def test_calibration_sees_every_use(folder, family, net):
    """The statistics equal those of inputs and gradients worked out by hand on the class itself."""
    tokens = np.random.default_rng(0).integers(0, 300, (3, 10))
    found = load_checkpoint(folder / "net.pt", family=family)
    plain, stats = (
        calibrate(
            found.module(), found.spec, CalibTokens(tokens, "x"), gradients=g, seed=0, threads=1
        )
        for g in (False, True)
    )
    seen = []
    handle = net.mixer.out_proj.register_forward_hook(
        lambda _m, a, _o: seen.append(a[0].flatten(0, 1))
    )
    with torch.no_grad():
        net(torch.from_numpy(tokens))
    handle.remove()
    assert len(seen) == 2  # one module, called twice
    expected = sum((x.double().T @ x.double()).numpy() for x in seen) / tokens.size
    agree(plain.uses["mixer.out_proj.weight"][0].hessian, expected)
    assert [u.kind for u in stats.uses["emb.weight"]] == ["embedding", "linear"]
    assert all(
        u.row_weight is not None and u.row_weight.min() > 0 for u in stats.uses["emb.weight"]
    )
    assert set(stats.vector_fisher) == {"gate", "up", "mixer.out_proj.bias", "down.bias"}
    assert all(f.max() > 0 for f in stats.vector_fisher.values())


def test_decoding_with_a_cache_gives_the_same_logits(folder, family, net):
    model = load_checkpoint(folder / "net.pt", family=family).module()
    tokens = torch.arange(12).view(2, 6)
    cache = KVCache(6)
    parts = [model(part, cache=cache) for part in tokens.split([1, 3, 2], 1)]
    agree(torch.cat(parts, 1), model(tokens))


@pytest.fixture(scope="module")
def artifact(folder, ref, net, data):
    options = asked(
        folder / "net.pt", "5bpw", folder / "net.golf", calib=str(data[0]), calib_tokens=1024,
        settings=("model.seq_len=64",), cache=False, model=ref, model_args=('{"vocab": 300}',),
    )  # fmt: skip
    report = build(options)
    again = build(options.changed(calib=None, calib_tokens=64, dry_run=True))
    assert report.budget_bytes is not None
    assert report.headroom_bytes >= 0
    assert report.measured_kl is not None
    assert 0 < report.measured_kl < 0.5
    assert again.calibration is not None
    assert again.calibration["source"] == "self-generated"
    return folder / "net.golf"


def test_an_artifact_names_its_class_and_never_runs_it(folder, ref, artifact, data, tmp_path):
    text = open_model(artifact).config
    assert (text["class_name"], text["args"]) == ("Net", '{"vocab":300}')
    assert str(folder) not in json.dumps(text)
    assert inspect(artifact).family == "user"
    unpack(artifact, tmp_path / "back.safetensors")
    with pytest.raises(UsageError, match="class of its own, Net") as caught:
        evaluate(EvalOptions(artifact, str(data[0]), data[1]))
    assert ":Net" in (caught.value.hint or "")
    family = choose_family(ref)  # the arguments are in the artifact
    options = EvalOptions(artifact, str(data[0]), data[1], family=family)
    packed = evaluate(replace(options, baseline=folder / "net.pt", limit=500))
    assert load_checkpoint(tmp_path / "back.safetensors", family=family).config == text
    assert packed.window == 64
    assert abs(packed.quant_gap) < 0.2
    other = choose_family(ref.replace(":Net", ":Linear"))
    with pytest.raises(UsageError, match="class Net"):
        evaluate(replace(options, family=other))


@pytest.mark.parametrize(
    "lie", [{"class_name": 3}, {"vocab_size": -1}, {"args": "["}, {"seq_len": None}], ids=str
)
def test_an_artifact_whose_config_lies_is_corrupt(artifact, tmp_path, lie):
    container = load(artifact).container
    config = {**container.manifest["config"], **lie}
    config = {k: v for k, v in config.items() if v is not None}
    path = tmp_path / "liar.golf"
    path.write_bytes(assemble({**container.manifest, "config": config}, container.streams))
    with pytest.raises(CorruptError, match="no usable model"):
        open_model(path)


def test_a_linear_module_that_shares_the_embedding(folder):
    state = {"emb.weight": torch.randn(9, 4, generator=torch.Generator().manual_seed(0))}
    torch.save({**state, "head.weight": state["emb.weight"]}, folder / "tied.pt")
    torch.save({**state, "head.weight": state["emb.weight"] + 1}, folder / "untied.pt")
    family = choose_family(f"{folder / 'net.py'}:Linear", ["vocab=9", "dim=4"])
    found = load_checkpoint(folder / "tied.pt", family=family)
    assert list(found.weights) == ["emb.weight"]
    assert [h.kind for h in found.spec.tensors[0].hooks] == ["embedding", "linear"]
    model = found.module()
    assert model.get_parameter("emb.weight") is model.get_parameter("head.weight")
    with pytest.raises(UsageError, match=r"ties 'head\.weight'"):
        load_checkpoint(folder / "untied.pt", family=family)


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        ("{f}/none.py:Net", [], "no Python file"),
        ("{f}/net.py:Nett", [], "no class 'Nett'"),
        ("{f}/net.py:NOT_A_CLASS", [], "something else than a torch module"),
        ("{f}/net.py:Net", ["vocab"], "neither key=value"),
        ("{f}/net.py:Net", [], "missing 1 required positional argument"),
        ("{f}/net.py:Net", ["vocab=299"], "has shape (300, 16)"),
        ("{f}/net.py:LastOnly", ["vocab=300"], "gives (1, 1, 300) for 2 tokens"),
        ("{f}/net.py:Loss", ["vocab=300"], "missing 1 required positional argument: 'targets'"),
        ("{f}/bad.py:Net", [], "raised ZeroDivisionError"),
        ("golf", ["vocab=1"], "--model-args is for classes"),
        ("golff", [], "unknown model family 'golff'"),
        (None, ["vocab=1"], "--model-args without --model"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_says_why(folder, net, model, args, says):
    (folder / "bad.py").write_text("1 / 0\n")
    with pytest.raises(UsageError) as caught:
        load_checkpoint(
            folder / "net.pt", family=choose_family(model and model.format(f=folder), args)
        )
    assert says in caught.value.message


def test_arguments_are_typed():
    assert parse_args(["a=1", '{"b": [2], "a": 0}', "c=x", "d=true"]) == {
        "a": 0, "b": [2], "c": "x", "d": True,
    }  # fmt: skip


def test_the_callers_random_state_is_left_alone(folder, ref, net):
    before = torch.random.get_rng_state()
    family = choose_family(ref, ["vocab=300", "dim=24"])
    with pytest.raises(UsageError):
        load_checkpoint(folder / "net.pt", family=family)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_a_class_imports_from_beside_it_is_its_code(tmp_path):
    (tmp_path / "net.py").write_text(
        "import golfpack, beside_it\nfrom torch import nn\nclass Net(nn.Module): pass\n"
    )
    codes = []
    for text in ("A = 1\n", "A = 2\n", "A = 1\n"):
        (tmp_path / "beside_it.py").write_text(text)
        (tmp_path / "not_imported.py").write_text(f"{len(codes)}\n")
        open_class(tmp_path / "net.py", "Net")
        codes.append(code_sha256(tmp_path / "net.py"))
    assert codes[0] == codes[2] != codes[1]


def test_statistics_of_other_code_are_not_taken(folder, net, tmp_path):
    for name in ("net.py", "helper.py", "net.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    options = asked(
        tmp_path / "net.pt", "4bpw", tmp_path / "x.golf", calib_tokens=256, recipe="sdclip-brotli",
        model=f"{tmp_path / 'net.py'}:Net", model_args=("vocab=300",),
        settings=("model.seq_len=64",), force=True,
    )  # fmt: skip
    first = build(options)
    (tmp_path / "net.py").write_text(NET.read_text().replace("relu(", "silu("))
    found = [build(options.changed(cache=cache)) for cache in (True, False)]
    assert found[0].artifact_sha256 == found[1].artifact_sha256 != first.artifact_sha256


def test_the_command_line(folder, ref, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["--model", ref, "--model-args", "vocab=300", "--json"]
    run = CliRunner().invoke(app, ["import", str(folder / "net.pt"), *args])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["checkpoint"] == "net.imported.safetensors"
    assert any("tied" in note for note in report["notes"])
    run = CliRunner().invoke(app, ["inspect", "net.imported.safetensors", "--model", ref, "--json"])
    assert json.loads(run.stdout)["parameters"] == report["parameters"]


SHORT = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(300, 8)
        self.pos = nn.Embedding(16, 8)

    def forward(self, ids):
        return (self.emb(ids) + self.pos(torch.arange(ids.shape[1]))) @ self.emb.weight.T
"""


def test_an_error_of_the_classs_is_no_fault_of_golfpack(folder, data, inside):
    (folder / "short.py").write_text(SHORT)
    model = open_class(folder / "short.py", "Net")()
    torch.save(model.state_dict(), folder / "short.pt")
    tokens, tokenizer = data
    args = ("--tokens", tokens, "--tokenizer", tokenizer, "--model", "short.py:Net", "-q")
    run = inside("eval", "short.pt", *args)
    assert run.returncode == ExitCode.USAGE
    line = f"error: {folder / 'short.py'}, line 12: IndexError: index out of range"
    assert line in run.stderr.replace("\n", " ")
    assert "model.seq_len=N" in run.stderr.replace("\n", " ")
    assert inside("eval", "short.pt", *args, "--set", "model.seq_len=16").returncode == 0


def test_the_example_in_the_docs_works(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "writing_a_family.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "doc.py").write_text(code)
    gen = torch.Generator().manual_seed(0)
    shapes = {"emb.weight": (50, 64), "block.qkv.weight": (192, 64), "block.out.weight": (64, 64)}
    state = {n: torch.randn(s, generator=gen) / 8 for n, s in shapes.items()}
    torch.save({**state, "scale": torch.ones(())}, tmp_path / "doc.pt")
    model, args = f"{tmp_path / 'doc.py'}:Net", ("vocab=50",)
    found = load_checkpoint(tmp_path / "doc.pt", family=choose_family(model, args))
    options = asked(
        tmp_path / "doc.pt", "4bpw", calib_tokens=32, cache=False, dry_run=True, model=model,
        model_args=args,
    )  # fmt: skip
    assert build(options).measured_kl is not None
    hooks = {t.name: [h.kind for h in t.hooks] for t in found.spec.tensors}
    assert hooks == {
        "scale": [], "emb.weight": ["embedding", "linear"], "block.qkv.weight": ["linear"],
        "block.out.weight": ["linear"],
    }  # fmt: skip
    assert [t.role for t in found.spec.tensors] == ["vector", "embed", "attn_q", "mlp_in"]


@pytest.fixture(scope="module")
def idioms(tmp_path_factory):
    """A folder with a net full of the records' idioms, its checkpoint, tokens and tokenizer."""
    folder = tmp_path_factory.mktemp("idioms")
    (folder / "net.py").write_text(NET.with_name("idioms_net.py").read_text())
    net, gen = open_class(folder / "net.py", "Net")(), torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=gen) / max(p.shape) ** 0.5)
    torch.save(net.state_dict(), folder / "net.pt")
    texts = [f"the cat sat on the mat and saw {i} dogs. " * 20 for i in range(40)]
    train_tokenizer(texts, 300, folder / "sp.model")
    tokens = encode_documents(load_tokenizer(folder / "sp.model"), texts)
    write_shard(folder / "train.bin", tokens[:10_000])
    write_shard(folder / "val.bin", tokens[10_000:11_500])
    options = asked(
        folder / "net.pt", "8bpw", output=folder / "net.golf", calib=str(folder / "train.bin"),
        calib_tokens=1024, model=f"{folder / 'net.py'}:Net", settings=("model.seq_len=256",),
    )  # fmt: skip
    build(options)
    return folder


@pytest.mark.parametrize("ttt", ["none", "sgd", "lora", "lora-0317", "phased"])
def test_the_records_idioms_are_built_scored_and_trained_unchanged(idioms, ttt):
    sgd = ("ttt.chunk_tokens=512",) if ttt == "sgd" else ()
    options = EvalOptions(
        idioms / "net.golf", str(idioms / "val.bin"), idioms / "sp.model", ttt=ttt, settings=sgd,
        family=choose_family(f"{idioms / 'net.py'}:Net"),
    )  # fmt: skip
    report = evaluate(options)
    assert "flash_attn_interface" not in sys.modules  # a stand-in that others would take for real
    assert all(check["passed"] for check in report.legality)
    plain = evaluate(replace(options, ttt="none", settings=()))
    assert report.scored_tokens == plain.scored_tokens
    # Random weights learn the repeated sentence as they are tested on it.
    assert report.val_loss < plain.val_loss or ttt == "none"


@pytest.mark.parametrize(("length", "past"), [(5, 5), (1, 7), (3, 7)])
def test_the_stand_in_is_flash_attention_by_its_formula(length, past):
    gen = torch.Generator().manual_seed(length)
    q = torch.randn(2, length, 4, 8, generator=gen, dtype=torch.float64)
    k, v = torch.randn(2, 2, past, 2, 8, generator=gen, dtype=torch.float64)
    y = stand_in("flash_attn").flash_attn_func(q, k, v, causal=True, softmax_scale=0.3)
    wide_k, wide_v = k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)
    scores = 0.3 * torch.einsum("bthd,bshd->bhts", q, wide_k)
    hidden = torch.arange(past)[None] > torch.arange(length)[:, None] + past - length
    p = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    assert torch.allclose(y, torch.einsum("bhts,bshd->bthd", p, wide_v), rtol=1e-12, atol=1e-12)


def test_what_the_stand_in_does_not_compute_is_an_error():
    module, x = stand_in("flash_attn_interface"), torch.zeros(1, 2, 1, 4)
    with pytest.raises(UsageError, match="no window_size"):
        module.flash_attn_func(x, x, x, causal=True, window_size=(4, 0))
    with pytest.raises(UsageError, match="no dropout_p"):
        module.flash_attn_func(x, x, x, dropout_p=0.1)
    with pytest.raises(UsageError, match="flash_attn_varlen_func was called"):
        module.flash_attn_varlen_func(x, x, x)

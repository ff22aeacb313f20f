"""The Python API: light to import, the same bytes as the commands, and its page tells the truth."""

import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import asked
from typer.testing import CliRunner

import golfpack
from golfpack.build.run import build
from golfpack.cli import COMMANDS, app
from golfpack.errors import UsageError
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.llama.family import LLAMA
from golfpack.packer.format.loader import loads
from golfpack.size import size as size_module

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_path, tiny_shard):
    path = tmp_path_factory.mktemp("api")
    shutil.copy(tiny_path, path / "ckpt.pt")
    shutil.copy(tiny_shard, path / "train.bin")
    return path


def test_the_page_runs(folder, monkeypatch):
    """Its examples, in order, as one program; calibration on less than they ask for."""
    monkeypatch.chdir(folder)
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(), re.MULTILINE)
    program = "\n".join(re.sub(r"^    ", "", b, flags=re.MULTILINE) for b in blocks)
    assert program.count("golfpack.") >= 8
    program = program.replace('calib="train.bin"', 'calib="train.bin", calib_tokens=512')
    exec(compile(program, str(PAGE), "exec"), {})


def test_importing_it_is_light():
    code = (
        "import sys, golfpack; golfpack.__version__; "
        "print(*(n for n in ('torch', 'numpy', 'numba', 'scipy', 'rich') if n in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_names_stay_functions_whatever_is_imported():
    for name in golfpack.__all__:
        assert callable(getattr(golfpack, name))
        assert name in dir(golfpack)
    assert golfpack.build is not sys.modules["golfpack.build"]
    with pytest.raises(AttributeError, match="bilud"):
        golfpack.bilud  # noqa: B018


def test_it_builds_what_the_options_build(folder, tmp_path):
    by_api = golfpack.build(
        folder / "ckpt.pt", budget=20_000, calib=str(folder / "train.bin"), calib_tokens=512,
        output=tmp_path / "a.golf", settings={"sense.damp": 0.02},
    )  # fmt: skip
    by_options = build(
        asked(
            folder / "ckpt.pt", "20kB", tmp_path / "b.golf", calib=str(folder / "train.bin"),
            calib_tokens=512, settings=("sense.damp=0.02",),
        )
    )  # fmt: skip
    assert by_api.artifact_sha256 == by_options.artifact_sha256
    assert by_api.passes == by_options.passes


def test_paths_and_numpys_numbers_do_for_texts_and_numbers(folder, tmp_path):
    report = golfpack.build(
        folder / "ckpt.pt", budget=np.int64(20_000), calib=folder / "train.bin",
        calib_tokens=np.int32(512), output=str(tmp_path / "a.golf"),
        settings={"sense.damp": np.float64(0.02)}, seed=np.uint8(0), model_args=[],
    )  # fmt: skip
    assert report.artifact_bytes <= 20_000
    scored = golfpack.evaluate(tmp_path / "a.golf", folder / "train.bin", limit=np.int64(300))
    assert scored.scored_tokens == 299
    ids = np.array([3, 1, 4])
    written = golfpack.generate(tmp_path / "a.golf", ids, tokens=np.int64(2), seed=np.int64(1))
    assert written.prompt_ids == [3, 1, 4]
    same = golfpack.generate(tmp_path / "a.golf", torch.from_numpy(ids), tokens=2, seed=1)
    assert same.tokens == written.tokens


def _evaluate(**options):
    golfpack.evaluate("ckpt.pt", **{"tokens": "train.bin", **options})


def _build(**options):
    golfpack.build("ckpt.pt", **{"budget": "20kB", "data_free": True, **options})


def _compare(**options):
    table = {"recipes": ["rd"], "budgets": ["20kB"], "tokens": "train.bin", **options}
    golfpack.compare("ckpt.pt", **table)


def _generate(**options):
    golfpack.generate("ckpt.pt", **{"prompt": [1, 2], **options})


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (_evaluate, {"limit": -3}, "limit is -3"),
        (_evaluate, {"window": 0}, "window is 0"),
        (_evaluate, {"window": 5.5}, "window cannot be 5.5"),
        (_evaluate, {"stride": 0, "mode": "sliding"}, "stride is 0"),
        (_evaluate, {"threads": 0}, "threads is 0"),
        (_evaluate, {"limit": "5"}, "limit cannot be '5'"),
        (_evaluate, {"tokens": ["train.bin"]}, "tokens cannot be"),
        (_evaluate, {"settings": "ttt.lr=1"}, "settings cannot be"),
        (_evaluate, {"settings": None}, "settings cannot be"),
        (_build, {"calib_tokens": -5}, "calib_tokens is -5"),
        (_build, {"threads": 0}, "threads is 0"),
        (_build, {"seed": -1}, "seed of -1"),
        (_build, {"seed": 1 << 80}, "seed of 1"),
        (_build, {"code": "train.py"}, "code cannot be 'train.py'"),
        (_build, {"budget": 3.5}, "budget cannot be 3.5"),
        (_build, {"settings": {"sense.damp": {1}}}, "sense.damp cannot be of type set"),
        (_build, {"output": b"x.golf"}, "output cannot be"),
        (_compare, {"recipes": "rd"}, "recipes cannot be 'rd'"),
        (_compare, {"budgets": [2.5]}, "budgets"),
        (_compare, {"limit": 1}, "limit is 1"),
        (_generate, {"seed": 1 << 80}, "seed of 1"),
        (_generate, {"temperature": float("inf")}, "temperature cannot be inf"),
        (_generate, {"tokens": 0}, "tokens is 0"),
        (_generate, {"prompt": [1, 2.5]}, "prompt_ids"),
        (_generate, {"prompt": None}, "what is the text to begin with"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:30],
)
def test_a_value_that_cannot_be_is_named(folder, monkeypatch, call, options, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=message):
        call(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "t.txt", "train_vocab": 300}, "text cannot be 't.txt'"),
        ({"tokens": "train.bin", "settings": "train.lr=1"}, "settings cannot be"),
        ({"tokens": "train.bin", "seed": 1 << 80}, "seed"),
    ],
)
def test_a_value_that_training_cannot_take_is_named(
    folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=message):
        golfpack.train(tmp_path / "run", steps=1, **options)
    assert not (tmp_path / "run").exists()


# What commands have and their functions do not: what is only shown, or written for people to look at.
SHOWN = {
    "columns", "context", "explain", "group", "html", "json", "live", "print_plan", "quiet", "sort",
    "table", "tensorboard",
}  # fmt: skip
# What a function calls otherwise, or another one does.
OTHERWISE = {
    "build": {"no_cache", "pack", "source", "submission", "ttt"},
    "compare": {"budget", "no_cache"},
    "eval": {"compiled", "mode_of_compile"},
    "generate": {"no_cache", "prompt_ids"},
    "probe": {"threads"},
}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("build", "build"), ("probe", "probe"), ("evaluate", "eval"), ("generate", "generate"),
        ("compare", "compare"), ("inspect", "inspect"), ("verify", "verify"),
    ],
)  # fmt: skip
def test_a_function_takes_what_its_command_takes(name, command):
    run = {told: function for told, function, _ in COMMANDS}[command]
    typed = set(inspect.signature(run).parameters) - SHOWN - OTHERWISE.get(command, set())
    assert typed <= set(inspect.signature(getattr(golfpack, name)).parameters)


def test_a_report_is_built_again_with_what_is_given_in_its_place(folder, tmp_path):
    first = golfpack.build(
        folder / "ckpt.pt", budget="20kB", calib=folder / "train.bin", calib_tokens=512,
        output=tmp_path / "a.golf", recipe="sdclip-brotli",
    )  # fmt: skip
    again = golfpack.rebuild(tmp_path / "a.report.json", output=tmp_path / "b.golf", threads=2)
    assert again.artifact_sha256 == first.artifact_sha256
    moved = tmp_path / "moved.pt"
    shutil.copy(folder / "ckpt.pt", moved)
    other = golfpack.rebuild(
        tmp_path / "a.report.json", moved, budget="15kB", output=tmp_path / "c.golf"
    )
    assert other.artifact_bytes <= other.budget_bytes == 15_000
    with pytest.raises(UsageError, match="budgte"):
        golfpack.rebuild(tmp_path / "a.report.json", budgte="15kB")


def test_an_artifact_is_its_weights_and_its_model(folder, tmp_path):
    path = tmp_path / "x.golf"
    golfpack.build(folder / "ckpt.pt", budget="4bpw", data_free=True, output=path)
    artifact, expected = golfpack.load(path), loads(path.read_bytes())
    assert artifact.sha256 == expected.container.sha256
    for name, w in expected.weights().items():
        np.testing.assert_array_equal(artifact.weights()[name], w)
        np.testing.assert_array_equal(artifact.state_dict()[name].numpy(), w)
    with pytest.raises(ValueError, match="read-only"):
        artifact.weights()["tok_emb.weight"][:] = 0
    artifact.config["num_layers"] = 99
    tokens = torch.arange(6)[None]
    original = load_checkpoint(folder / "ckpt.pt").module(expected.weights())
    with torch.no_grad():
        torch.testing.assert_close(artifact.module()(tokens), original(tokens), rtol=0, atol=0)


def test_a_tied_tensor_has_both_its_names(tmp_path):
    config = {
        "vocab_size": 64, "num_layers": 1, "dim": 16, "num_heads": 2, "num_kv_heads": 2,
        "mlp_hidden": 32, "head_dim": 8, "tied": True,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    state = {t.name: torch.randn(t.shape, generator=generator) for t in LLAMA.spec(config).tensors}
    torch.save({**state, "lm_head.weight": state["model.embed_tokens.weight"]}, tmp_path / "l.pt")
    golfpack.build(
        tmp_path / "l.pt", lossless=True, output=tmp_path / "l.golf",
        settings={"model.num_heads": 2},
    )  # fmt: skip
    found = golfpack.load(tmp_path / "l.golf").state_dict()
    assert found["lm_head.weight"] is found["model.embed_tokens.weight"]
    assert found.keys() == {*state, "lm_head.weight"}


@pytest.mark.parametrize("name", [n for n in golfpack.__all__ if n != "Artifact"])
def test_every_function_is_documented(name):
    function = getattr(golfpack, name)
    told = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", told), f"{name}: {parameter} is not explained"
    assert f"`{name}(" in PAGE.read_text()


def test_options_of_training_are_what_the_commands_make_of_them(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("golfpack.api_training.run_size", lambda options, *_: seen.append(options))
    golfpack.size(
        "500kB", out=str(tmp_path), text=["a.txt", "b.txt"], train_vocab=512, shapes=["2x64"], seeds=3,
        code=["train_gpt.py"], refine="auto", settings={"train.lr": 0.1, "model.softcap": 20.0},
    )  # fmt: skip
    monkeypatch.setattr(size_module, "size", lambda options, *_: seen.append(options))
    typed = (
        "--text a.txt --text b.txt --train-vocab 512 --shapes 2x64 --seeds 3 --code train_gpt.py"
    )
    more = "--refine auto --set train.lr=0.1 --set model.softcap=20.0"
    asked = ["size", "--budget", "500kB", "--out", str(tmp_path), *typed.split(), *more.split()]
    CliRunner().invoke(app, asked)
    by_api, by_command = seen
    assert replace(by_api, argv=(), threads=1, device="") == replace(
        by_command, argv=(), threads=1, device=""
    )


def test_a_misspelt_option_of_training_is_named(tmp_path):
    with pytest.raises(UsageError, match="step"):
        golfpack.train(tmp_path / "run", tokens="train.bin", step=3)
    assert not (tmp_path / "run").exists()

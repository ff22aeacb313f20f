"""`compare`: rows are what build and eval say, refusals are rows, a rerun goes on where one stopped."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, asked, trained_looking
from typer.testing import CliRunner

from golfpack.artifact import open_model
from golfpack.build.reportfile import report_beside
from golfpack.build.run import build
from golfpack.cli import app
from golfpack.compare import rows as compare_rows
from golfpack.compare.compare import compare
from golfpack.compare.rows import CompareOptions
from golfpack.data.shards import read_tokens, write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import BudgetError, StrictError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions

TEXT = [
    f"The {a} {n} of {b} went to the {c} and said that {n} would be {a}."
    for n, a in enumerate(("green", "small", "careful", "unseen", "final", "wooden"), 11)
    for b in ("Norway", "the village", "summer")
    for c in ("river", "market", "library", "meeting")
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with a tiny checkpoint, the tokenizer of its vocabulary, and two shards."""
    folder = tmp_path_factory.mktemp("world")
    train_tokenizer(TEXT, 320, folder / "bpe.model")
    tokens = encode_documents(load_tokenizer(folder / "bpe.model"), TEXT)
    write_shard(folder / "train.bin", np.tile(tokens, 3))
    write_shard(folder / "held.bin", tokens[:1_000])
    weights = trained_looking({**TINY, "vocab_size": 320}, 3)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, folder / "ckpt.pt")
    return folder


@pytest.fixture
def options(world, tmp_path):
    """Two quick recipes at two budgets."""
    return CompareOptions(
        checkpoint=world / "ckpt.pt", recipes=("int8-zlib", "sdclip-brotli"),
        budgets=("4bpw", "3bpw"), tokens=str(world / "held.bin"), tokenizer=world / "bpe.model",
        limit=600, window=64, kl_tokens=300,
        out=tmp_path / "out", calib=str(world / "train.bin"), calib_tokens=512,
    )  # fmt: skip


def test_rows_are_what_build_and_eval_say(options, world):
    seen = []
    report = compare(replace(options, budgets=("3bpw",)), on_row=seen.append)
    assert [len(r.rows) for r in seen] == [0, 1, 2]
    assert seen[-1] == report
    assert [(r.recipe, r.budget) for r in report.rows] == [
        ("int8-zlib", "3bpw"), ("sdclip-brotli", "3bpw"),
    ]  # fmt: skip
    held, tokenizer = str(world / "held.bin"), world / "bpe.model"
    scored = evaluate(EvalOptions(options.checkpoint, held, tokenizer, window=64, limit=600))
    assert (report.float_bpb, report.scored_tokens) == (scored.val_bpb, 599)
    row = report.rows[1]
    assert row.artifact == str(options.out / "sdclip-brotli-3bpw.golf")
    blob = Path(row.artifact).read_bytes()
    assert row.artifact_sha256 == hashlib.sha256(blob).hexdigest()
    built = build(
        asked(
            options.checkpoint, "3bpw", recipe="sdclip-brotli", calib=options.calib,
            calib_tokens=512, dry_run=True,
        )
    )  # fmt: skip
    assert (row.artifact_bytes, row.artifact_sha256) == (len(blob), built.artifact_sha256)
    assert row.headroom_bytes == row.budget_bytes - len(blob) >= 0
    assert row.headroom_share == row.headroom_bytes / row.budget_bytes
    found = evaluate(EvalOptions(Path(row.artifact), held, tokenizer, window=64, limit=600))
    assert (row.val_bpb, row.val_loss) == (found.val_bpb, found.val_loss)
    assert row.quant_gap == found.val_bpb - scored.val_bpb
    assert row.kl == pytest.approx(_kl(options.checkpoint, Path(row.artifact), held), rel=1e-3)
    assert report.kl_tokens == 256
    assert 0 < row.kl < report.rows[0].kl


def _kl(before: Path, after: Path, held: str) -> float:
    """KL on the first four windows, from float64 probabilities."""
    tokens = torch.from_numpy(read_tokens(held, 256).astype(np.int64)).view(4, 64)
    p, q = (
        m.module()(tokens).double().softmax(-1) for m in (open_model(before), open_model(after))
    )
    return float((p * (p / q).log()).sum() / 256)


def test_a_rerun_takes_finished_rows_and_only_those(options, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(report):
        if len(report.rows) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        compare(options, on_row=stop)
    calls = []
    monkeypatch.setattr(
        compare_rows, "build", lambda o, n: calls.append(o.goal.aim.size) or build(o, n)
    )
    report = compare(options)
    assert calls == ["3bpw", "3bpw"]
    assert [r.reused for r in report.rows] == [True, True, False, False]
    again = compare(options)
    assert len(calls) == 2
    assert [replace(r, reused=False) for r in report.rows] == [
        replace(r, reused=False) for r in again.rows
    ]
    assert again.float_bpb == report.float_bpb
    Path(report.rows[0].artifact or "").write_bytes(b"changed")
    report_beside(Path(report.rows[1].artifact or "")).unlink()
    assert [r.reused for r in compare(options).rows] == [False, False, True, True]
    assert report_beside(Path(report.rows[1].artifact or "")).is_file()


def test_what_an_evaluation_warns_of_is_the_rows(options, tmp_path):
    held = tmp_path / "x_val_0.bin"
    shutil.copy(options.tokens, held)
    write_shard(tmp_path / "x_val_bytes_0.bin", np.zeros(4))
    few = replace(
        options, recipes=("int8-zlib",), budgets=("4bpw",), limit=200, kl_tokens=128,
        tokens=str(tmp_path / "x_val_*.bin"),
    )  # fmt: skip
    (row,) = compare(few).rows
    assert "--byte-counts" in " ".join(row.warnings)
    with pytest.raises(StrictError, match="--byte-counts"):
        compare(replace(few, strict=True))
    with pytest.raises(StrictError, match="--byte-counts"):
        compare(replace(few, strict=True, out=tmp_path / "anew"))


def test_whatever_a_row_depends_on_makes_it_another(options):
    options = replace(options, recipes=("int8-zlib",), budgets=("4bpw",), limit=200, kl_tokens=128)
    compare(options)
    assert compare(options).rows[0].reused
    for changes in (
        {"calib_tokens": 576}, {"limit": 201}, {"window": 63}, {"kl_tokens": 64}, {"seed": 1},
        {"code": (Path(__file__),)}, {"settings": ("search.slack=65",)},
        {"settings": ("model.softcap=20",)},
    ):  # fmt: skip
        assert not compare(replace(options, **changes)).rows[0].reused, changes


def test_a_refusal_is_a_row_and_not_the_end(options, tmp_path, monkeypatch):
    picky = tmp_path / "picky.toml"
    picky.write_text(
        '[[pass]]\nid = "policy"\nrules = [{ name = "nothing", scheme = "rd" }]\n'
        '[[pass]]\nid = "sense"\n[[pass]]\nid = "steps"\n'
        '[[pass]]\nid = "round"\n[[pass]]\nid = "encode"\n'
    )
    options = replace(options, recipes=(str(picky), "int5-mlp", "int8-zlib"), budgets=("3bpw",))
    calls = []
    monkeypatch.setattr(
        compare_rows, "build", lambda o, n: calls.append(o.goal.recipe) or build(o, n)
    )
    for reused in (False, True):
        rows = compare(options).rows
        assert [r.recipe for r in rows] == ["picky", "int5-mlp", "int8-zlib"]
        assert [r.refused is not None for r in rows] == [True, True, False]
        assert "matches no tensor" in (rows[0].refused or "")
        assert "over the budget" in (rows[1].refused or "")
        assert rows[1].artifact is rows[1].val_bpb is None
        # What bad input refused is tried again: it may have been mended.
        assert [r.reused for r in rows] == [False, reused, reused]
    assert calls == [str(picky), "int5-mlp", "int8-zlib", str(picky)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipes": ("int8-zlib", "rdd")}, "unknown recipe"),
        ({"recipes": ("int8-zlib", "int8-zlib")}, "twice"),
        ({"recipes": ()}, "no recipes"),
        ({"budgets": ("4bpw", "16potato")}, "16potato"),
        ({"settings": ("search.tolrance=1",)}, "no option"),
        ({"tokens": "none.bin"}, "none.bin"),
        ({"tokenizer": Path("none.model")}, "none.model"),
        ({"checkpoint": Path("none.pt")}, "none.pt"),
        ({"calib": "none.bin"}, "none.bin"),
        ({"calib": "val.bin"}, "validation data"),
        ({"calib": "train.bin", "tokens": "./t*.bin"}, "what builds calibrate on, too"),
        ({"calib_tokens": 10**9}, "calibration asks for"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_the_first_build(options, monkeypatch, changes, says):
    monkeypatch.setattr(compare_rows, "build", lambda *a: pytest.fail("too late"))
    monkeypatch.chdir(options.checkpoint.parent)
    with pytest.raises(UsageError, match=says):
        compare(replace(options, **changes))
    assert not options.out.exists()


def test_a_file_that_holds_no_rows_is_refused(options):
    options.out.mkdir()
    (options.out / "compare.json").write_text('{"rows": [')
    with pytest.raises(UsageError, match="no rows"):
        compare(options)


def command(world, recipes, budget):
    return [
        "compare", str(world / "ckpt.pt"), "--recipes", recipes, "--budget", budget, "--calib",
        str(world / "train.bin"), "--calib-tokens", "512", "--tokens", str(world / "held.bin"),
        "--tokenizer", str(world / "bpe.model"), "--no-cache", "--threads", "1", "--quiet",
    ]  # fmt: skip


def test_the_command_prints_a_table_and_json(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = command(world, "int8-zlib,int5-mlp", "3bpw")
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("float model: ")
    assert lines[1].split()[:3] == ["recipe", "budget", "bytes"]
    assert lines[2].startswith("int8-zlib    3bpw")
    assert "refused: the coarsest steps" in lines[3]
    assert sorted(p.name for p in (tmp_path / "ckpt.compare").iterdir()) == [
        "compare.json", "compare.report.json", "int5-mlp-3bpw.failed.report.json", "int8-zlib-3bpw.golf",
        "int8-zlib-3bpw.report.json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*args, "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert [r["reused"] for r in report["rows"]] == [True, True]
    assert f"{report['rows'][0]['val_bpb']:.4f}" in lines[2]


def test_a_compare_in_which_nothing_fits_exits_3_after_its_table(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command(world, "int8-zlib,rd", "2kB"))
    assert isinstance(result.exception, BudgetError)
    assert "every row was refused" in result.exception.message
    lines = result.stdout.splitlines()
    assert [line.split()[2] for line in lines[2:4]] == ["refused:", "refused:"]
    assert lines[-1] == "artifacts, their reports and these rows are in ckpt.compare"


def test_bad_calibration_is_an_error_of_the_command(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [
        "compare", str(world / "ckpt.pt"), "--recipes", "int8-zlib,rd", "--budget", "3bpw",
        "--calib", "none.bin", "--tokens", str(world / "held.bin"),
        "--tokenizer", str(world / "bpe.model"), "--threads", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, args)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert "none.bin" in result.exception.message
    assert not list(tmp_path.iterdir())

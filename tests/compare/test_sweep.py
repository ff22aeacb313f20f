"""`sweep`: its rows are what build says, and what more bytes would buy follows from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, asked, trained_looking

from golfpack.build.plan import plan
from golfpack.build.run import build
from golfpack.compare import frontier as frontier_module
from golfpack.compare import rows as compare_rows
from golfpack.compare.compare import compare
from golfpack.compare.more import MEGABYTE, with_more
from golfpack.compare.report import CompareRow
from golfpack.compare.rows import CompareOptions
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import ExitCode, StrictError, UsageError

TEXT = [f"Line {i} of {c} goes on for a while, {a} and slow." for i in range(60) for c in "abcd"
        for a in ("calm", "wide")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_shard) -> Path:
    """A tiny checkpoint, calibration tokens, text as tokens to evaluate on, and their tokenizer."""
    path = tmp_path_factory.mktemp("sweep")
    weights = trained_looking({**TINY, "vocab_size": 320}, 3)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, path / "tiny.pt")
    (path / "train.bin").write_bytes(tiny_shard.read_bytes())
    train_tokenizer(TEXT, 320, path / "bpe.model")
    tokens = encode_documents(load_tokenizer(path / "bpe.model"), TEXT[:60])
    write_shard(path / "held.bin", tokens[:700])
    return path


# A recipe for what does not hang on it.
QUICK = ("sdclip-brotli",)


@pytest.fixture
def options(folder, tmp_path):
    """Two budgets of the default recipe, the larger one first."""
    return CompareOptions(
        checkpoint=folder / "tiny.pt", command="sweep", budgets=("25kB", "15kB"),
        out=tmp_path / "out", calib=str(folder / "train.bin"), calib_tokens=512,
    )  # fmt: skip


def test_rows_are_what_build_says_and_a_rerun_takes_them(options, monkeypatch):
    report = compare(options)
    assert [r.budget for r in report.rows] == ["15kB", "25kB"]
    assert (report.kl_source, report.float_bpb) == ("held-out calibration tokens", None)
    for row in report.rows:
        told = json.loads((options.out / f"rd-{row.budget}.report.json").read_text())
        assert row.artifact_sha256 == told["artifact_sha256"]
        assert (row.artifact_bytes, row.kl) == (told["artifact_bytes"], told["measured_kl"])
        assert row.headroom_bytes == row.budget_bytes - row.artifact_bytes >= 0
        assert row.val_bpb is row.quant_gap is None
    saved = json.loads((options.out / "sweep.report.json").read_text())
    assert [r["kl"] for r in saved["rows"]] == [r.kl for r in report.rows]
    calls = []
    monkeypatch.setattr(
        compare_rows, "build", lambda o, n: calls.append(o.goal.aim.size) or build(o, n)
    )
    again = compare(replace(options, budgets=("15kB", "20kB", "25kB")))
    assert calls == ["20kB"]
    assert [r.reused for r in again.rows] == [True, False, True]


def test_an_evaluation_measures_on_its_own_tokens(options, folder):
    options = replace(
        options, tokens=str(folder / "held.bin"), tokenizer=folder / "bpe.model", limit=600,
        window=64, kl_tokens=256, recipes=("int8-zlib",), budgets=("4bpw", "3bpw"),
    )  # fmt: skip
    report = compare(options)
    assert (report.scored_tokens, report.kl_tokens, report.window) == (599, 256, 64)
    assert report.float_bpb is not None
    for row in report.rows:
        assert row.val_bpb is not None
        assert row.quant_gap == pytest.approx(row.val_bpb - report.float_bpb)
    low, high = report.rows
    assert low.kl is not None
    assert high.kl is not None
    assert low.kl > high.kl > 0


def test_a_prediction_is_the_plan_and_writes_nothing(options, tmp_path):
    report = compare(replace(options, predict=True))
    assert not list(tmp_path.iterdir())
    prediction = asked(options.checkpoint, calib=options.calib, calib_tokens=512)
    planned = plan(prediction, ["15kB", "25kB"])
    assert [(r.budget_bytes, r.artifact_bytes, r.kl) for r in report.rows] == [
        (r.budget_bytes, r.artifact_bytes, r.predicted_kl) for r in planned.rows
    ]
    assert all(r.more is not None for r in report.rows)


def curve(*points: tuple[int, float, float | None]) -> list[CompareRow]:
    return [
        CompareRow("rd", f"{size}", size, artifact_bytes=size, kl=kl, quant_gap=bpb)
        for size, kl, bpb in points
    ]


def test_more_bytes_follow_an_exponential_exactly():
    # The KL halves with every 2 MB; bits per byte are 0.4 of it and something that stays.
    rows = curve(*((s * MEGABYTE, k := 0.01 * 2 ** (-s / 2), 0.3 + 0.4 * k) for s in (6, 8, 13)))
    for row in with_more(rows):
        assert row.kl is not None
        assert row.more is not None
        assert row.more.bytes == MEGABYTE
        assert row.more.kl == pytest.approx(row.kl * (2**-0.5 - 1))
        assert row.more.bpb == pytest.approx(0.4 * row.more.kl)
        assert row.more.extrapolated == (row.artifact_bytes == 13 * MEGABYTE)
        assert "another megabyte would take 29% off the KL" in row.more.says


def test_small_artifacts_are_asked_about_a_tenth_more():
    low, high = with_more(curve((100_000, 0.01, None), (110_000, 0.005, None)))
    assert low.more is not None
    assert low.more.bytes == 10_000
    assert low.more.kl == pytest.approx(-0.005)
    assert low.more.bpb is None
    assert high.more is not None
    assert high.more.extrapolated
    assert high.more.says.endswith("if the curve goes on as before")


def test_where_nothing_falls_nothing_is_promised():
    assert [r.more for r in with_more(curve((1000, 0.1, None)))] == [None]
    rows = with_more(
        [*curve((1000, 0.1, 0.1), (2000, 0.1, 0.2)), CompareRow("rd", "3", 3, "too small")]
    )
    assert [r.more is None for r in rows] == [False, False, True]
    assert all("nothing that shows" in r.more.says for r in rows if r.more)
    # An artifact that is exact, or one that nothing was measured on, has no curve.
    assert [r.more for r in with_more(curve((1000, 0.0, None), (2000, 0.0, None)))] == [None, None]


def test_code_counts_towards_every_budget_and_a_warning_can_be_an_error(options, tmp_path):
    code = tmp_path / "run.py"
    code.write_bytes(b"#" * 4_000)
    options = replace(options, recipes=QUICK, budgets=("20kB",), code=(code,))
    (row,) = compare(options).rows
    assert row.artifact_bytes is not None
    assert row.headroom_bytes == 20_000 - 4_000 - row.artifact_bytes >= 0
    exact = replace(options, budgets=("400kB",), code=())
    assert compare(exact).rows[0].warnings
    for _ in range(2):  # from the rows of the earlier run, too
        with pytest.raises(StrictError):
            compare(replace(exact, strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": "held.bin"}, "--tokenizer"),
        ({"tokens": "held.bin", "predict": True}, "--predict"),
        ({"budgets": ("15kB", "15kB")}, "twice"),
        ({"budgets": ("16potato",)}, "16potato"),
        ({"png": Path("none/x.png")}, "cannot write"),
        ({"png": Path("x.png"), "predict": True, "recipes": ("int8-zlib",)}, "no gradients"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_the_first_build(options, monkeypatch, changes, says):
    monkeypatch.setattr(compare_rows, "build", lambda *a: pytest.fail("too late"))
    with pytest.raises(UsageError, match=says):
        compare(replace(options, **changes))
    assert not options.out.exists()


@pytest.mark.parametrize("json_too", [False, True])
def test_a_sweep_in_which_nothing_fits_exits_3_after_its_table(inside, tmp_path, json_too):
    args = (
        "sweep", "tiny.pt", "--budgets", "2,3,4", "--calib", "train.bin", "--calib-tokens", "512",
        "--no-cache", "--threads", "1", "-q", "--out", tmp_path / "none",
    )  # fmt: skip
    run = inside(*args, *(["--json"] if json_too else []))
    assert run.returncode == ExitCode.OVER_BUDGET
    assert "error: nothing was built: every row was refused" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("hint: ")
    if json_too:
        rows = json.loads(run.stdout)["rows"]
        assert all("2bpw" in r["refused"] for r in rows[:1])
        assert [r["artifact"] for r in rows] == [None] * 3
    else:
        assert "4  refused: the coarsest steps" in run.stdout
        assert "(4 is bytes; 4bpw would be bits per weight" in run.stdout


def test_the_command_prints_words_draws_a_picture_and_names_what_is_missing(
    folder, inside, monkeypatch
):
    args = (
        "sweep", "tiny.pt", "--budgets", "15kB,25kB,1kB", "--calib", "train.bin", "--calib-tokens",
        "512", "--recipe", *QUICK, "--tokenizer", "bpe.model", "--no-cache", "--threads", "1", "-q",
    )  # fmt: skip
    run = inside(*args, "--png", "f.png")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].split()[:5] == ["budget", "bytes", "headroom", "share", "bpw"]
    assert any(line.split()[:2] == ["1kB", "refused:"] for line in lines)
    assert any(line.startswith("at 15kB, 10% more (") for line in lines)
    picture = (folder / "f.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    report = inside(*args, "--png", "f.png", "--json").report
    assert [r["reused"] for r in report["rows"]] == [True, True, True]
    built = json.loads((folder / "tiny.sweep" / f"{QUICK[0]}-15kB.report.json").read_text())
    assert report["rows"][1]["quant_gap"] == built["measured_bpb"] > 0
    assert (folder / "f.png").read_bytes() == picture
    run = inside(*args, "--eval")
    assert run.returncode == ExitCode.USAGE
    assert "needs --tokens and --tokenizer" in run.stderr
    monkeypatch.setattr(frontier_module, "find_spec", lambda name: None)
    run = inside(*args, "--png", "f.png")
    assert run.returncode == ExitCode.USAGE
    assert "needs matplotlib" in run.stderr
    assert inside(*args).returncode == 0


def test_both_names_make_the_same_rows(options, tmp_path):
    sweep = replace(options, recipes=QUICK, budgets=("15kB",))
    other = replace(sweep, command="compare", out=tmp_path / "other")
    (swept,), (row,) = compare(sweep).rows, compare(other).rows
    assert [swept.reused, row.reused] == [False, False]
    assert [r.reused for o in (sweep, other) for r in compare(o).rows] == [True, True]
    assert (tmp_path / "other" / "compare.report.json").exists()
    for name in ("recipe", "budget", "artifact_sha256", "artifact_bytes", "kl"):
        assert getattr(row, name) == getattr(swept, name)
    with pytest.raises(UsageError, match="one recipe"):
        compare(replace(options, recipes=("rd", "int8-zlib"), png=tmp_path / "x.png"))

"""A build replaces its own artifact freely, and nobody else's unasked."""

import json
import shutil

import pytest
import torch
from conftest import TINY, trained_looking
from safetensors.torch import load_file, save_file

from golfpack.errors import ExitCode
from golfpack.page.page import PAGE_START

QUIET = ("--data-free", "--threads", "1", "-q")


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints of one shape in a folder each, as training runs leave them."""
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        weights = trained_looking(TINY, seed)
        torch.save(
            {n: torch.from_numpy(w) for n, w in weights.items()}, tmp_path / name / "model.pt"
        )
    return tmp_path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_the_same_checkpoint_is_rebuilt_freely_and_another_is_refused(inside, folder):
    build = lambda which, *more: inside(  # noqa: E731
        "build", f"{which}/model.pt", "--budget", "4bpw", *QUIET, *more
    )
    assert build("a").returncode == 0
    again = inside("build", "a/model.pt", "--budget", "5bpw", *QUIET)
    assert again.returncode == 0, again.stderr
    before = contents(folder)
    assert before.keys() == {"model.golf", "model.report.json"}
    shutil.copy(folder / "a" / "model.pt", folder / "moved.pt")
    moved = inside("build", "moved.pt", "--budget", "5bpw", "-o", "model.golf", *QUIET)
    assert moved.returncode == 0, moved.stderr  # the same bytes under another name
    (folder / "moved.pt").unlink()
    before = contents(folder)

    run = build("b")
    assert run.returncode == ExitCode.USAGE
    assert "model.golf is of another checkpoint: moved.pt, sha256" in run.stderr
    assert "--force" in run.stderr
    assert contents(folder) == before  # no report of a failure, either
    assert build("b", "--dry-run").returncode == 0
    assert contents(folder) == before
    assert build("b", "--force").returncode == 0
    assert contents(folder)["model.golf"] != before["model.golf"]
    assert build("b").returncode == 0  # what was forced is its own now


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "model.report.json").unlink(), "no model.report.json beside it"),
        (lambda f: (f / "model.report.json").write_text("{}"), "is no report of a build"),
        (
            lambda f: (f / "model.golf").write_bytes((f / "model.golf").read_bytes()[:-1] + b"\0"),
            "is not the artifact that model.report.json describes",
        ),
        (
            lambda f: [(f / "model.report.json").unlink(), (f / "model.golf").write_text("notes")],
            "model.golf exists and is no artifact",
        ),
        (
            lambda f: [(f / "model.golf").unlink(), (f / "model.report.json").write_text("[1]")],
            "model.report.json exists and is no report of a build",
        ),
    ],
)
def test_what_nobody_can_tell_the_origin_of_is_kept(inside, folder, spoil, says):
    build = ("build", "a/model.pt", "--budget", "4bpw", *QUIET)
    assert inside(*build).returncode == 0
    spoil(folder)
    before = contents(folder)
    run = inside(*build)
    assert run.returncode == ExitCode.USAGE
    assert says in run.stderr
    assert contents(folder) == before
    assert inside(*build, "--force").returncode == 0


def test_a_page_that_is_none_is_refused_before_the_build(inside, folder):
    (folder / "model.html").write_text("my notes")
    run = inside("build", "a/model.pt", "--budget", "4bpw", "--html", *QUIET)
    assert run.returncode == ExitCode.USAGE
    assert contents(folder) == {"model.html": b"my notes"}
    assert (
        inside("build", "a/model.pt", "--budget", "4bpw", "--html", "--force", *QUIET).returncode
        == 0
    )
    assert b"golfpack report</title>" in contents(folder)["model.html"][:PAGE_START]


def test_a_folder_of_rows_keeps_those_of_another_checkpoint(inside, folder):
    sweep = (
        "sweep",
        "--budgets",
        "4bpw",
        "--calib-tokens",
        "64",
        "--threads",
        "1",
        "-q",
        "--out",
        "rows",
    )
    sweep = (*sweep, "--recipe", "int8-zlib")
    assert inside(*sweep, "a/model.pt").returncode == 0
    before = contents(folder / "rows")
    run = inside(*sweep, "b/model.pt")
    assert run.returncode == ExitCode.USAGE
    assert "int8-zlib-4bpw.golf is of another checkpoint" in run.stderr
    kept = contents(folder / "rows")
    assert {n: kept[n] for n in before} == before


def test_no_file_is_made_of_itself(inside, folder):
    """Whatever may be replaced: a checkpoint's own files may not, nor anything by a plan but a plan."""
    assert inside("build", "a/model.pt", "--budget", "4bpw", *QUIET).returncode == 0
    assert inside("import", "a/model.pt", "-o", "a/whole.safetensors").returncode == 0
    (folder / "hf").mkdir()
    state = load_file(folder / "a" / "whole.safetensors")
    names = sorted(state)
    shards = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for name, held in shards.items():
        save_file({n: state[n] for n in held}, folder / "hf" / name)
    told = {"weight_map": {n: name for name, held in shards.items() for n in held}}
    (folder / "hf" / "model.safetensors.index.json").write_text(json.dumps(told))
    shard = "hf/model-00001-of-00002.safetensors"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    common = ("--budget", "4bpw", *QUIET)
    for args in (
        ("build", "hf", *common, "-o", shard, "--force"),
        ("plan", "hf", *common, "-o", shard),
        ("plan", "hf", *common, "-o", "model.golf"),
        ("plan", "hf", *common, "-o", "model.report.json"),
        ("import", "a/whole.safetensors", "-o", "a/whole.safetensors", "--force"),
        ("import", "hf", "-o", shard, "--force"),
        ("unpack", "model.golf", "-o", "model.golf", "--force"),
    ):
        run = inside(*args)
        assert run.returncode == ExitCode.USAGE, args
        assert "choose another --output" in run.stderr
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert inside("plan", "hf", *common, "-o", "p.json").returncode == 0
    assert inside("plan", "hf", *common, "-o", "p.json").returncode == 0  # a plan by a plan

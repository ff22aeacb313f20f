"""The command line from outside: exit codes, one line and a hint, no traceback, nothing half written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from golfpack.errors import ExitCode
from golfpack.inspect import inspect as inspect_module
from golfpack.packer.format.container import parse


def golfpack(*args: object, cwd: Path, env: dict[str, str] | None = None):
    return subprocess.run(
        [sys.executable, "-m", "golfpack", *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GOLFPACK_CACHE": str(cwd / "cache"), **(env or {})},
    )  # fmt: skip


def assert_refused(run, code: ExitCode, says: str) -> None:
    assert run.returncode == code, run.stderr
    lines = run.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1, run.stderr
    message = next(line for line in lines if line.startswith("error: "))
    assert says in message
    assert lines[-1].startswith("hint: "), run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_path, tiny_shard) -> Path:
    """A folder with a checkpoint, calibration tokens and things that are neither."""
    path = tmp_path_factory.mktemp("cli")
    (path / "tiny.pt").write_bytes(tiny_path.read_bytes())
    (path / "train.bin").write_bytes(tiny_shard.read_bytes())
    (path / "notes.txt").write_text("these are notes, not a checkpoint\n" * 20)
    torch.save({"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}, path / "other.pt")
    return path


@pytest.fixture(scope="module")
def built(folder):
    """One real build: its process and its artifact."""
    run = golfpack(
        "build", "tiny.pt", "--budget", "20kB", "--calib", "train.bin", "--calib-tokens", "512",
        "--threads", "1", "--json", cwd=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run, folder / "tiny.golf"


def test_a_build_prints_json_on_stdout_and_progress_on_stderr(built):
    run, artifact = built
    report = json.loads(run.stdout)
    blob = artifact.read_bytes()
    assert report["artifact_bytes"] == len(blob) <= 20_000
    assert report["artifact_sha256"] == parse(blob).sha256
    assert json.loads((artifact.parent / "tiny.report.json").read_text()) == report
    assert report["argv"][:2] == ["build", "tiny.pt"]
    assert "calibrate" in run.stderr
    assert "seq_len=1024, softcap_kind=tanh; off: rope_dims, rope_scaling," in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("tiny.pt", "--budget", "16potato"), ExitCode.USAGE, "16potato"),
        (("none.pt", "--budget", "20kB"), ExitCode.USAGE, "none.pt"),
        (("notes.txt", "--budget", "20kB"), ExitCode.USAGE, "notes.txt"),
        (("other.pt", "--budget", "20kB"), ExitCode.USAGE, "no known model family"),
        (
            ("tiny.pt", "--budget", "2kB", "--data-free", "--blind", "--recipe", "sdclip-brotli"),
            ExitCode.OVER_BUDGET,
            "over the budget of 2,000 bytes",
        ),
        (
            ("tiny.pt", "--budget", "2.9bpw", "--data-free"),
            ExitCode.OVER_BUDGET,
            "needs 2.900 bits per parameter",
        ),
        (
            (
                "tiny.pt",
                "--budget",
                "100kB",
                "--data-free",
                "--recipe",
                "sdclip-brotli",
                "--strict",
            ),
            ExitCode.STRICT,
            "--strict",
        ),
    ],
)
def test_a_refused_build_leaves_at_most_its_report(folder, built, inside, args, code, says):
    before = {p.name for p in folder.iterdir()}
    run = inside("build", *args, "-o", "refused.golf", "-q")
    assert_refused(run, code, says)
    report = folder / "refused.failed.report.json"
    left = {p.name for p in folder.iterdir()} - before
    assert left == (set() if code == ExitCode.USAGE else {report.name})
    if report.exists():
        assert json.loads(report.read_text())["exit_code"] == code
        assert f"note: the report of this failure is {report.name}" in run.stderr
        report.unlink()


def test_a_summary_tells_only_what_there_is(inside):
    calib = ("--calib", "train.bin", "--calib-tokens", "512", "--threads", "1", "-q", "--dry-run")
    text = inside("build", "tiny.pt", "--budget", "100GB", *calib).stdout
    assert "KL to the float model 0.00000 nats per token on held-out calibration tokens\n" in text
    assert "SQNR" not in text
    assert "\nrel_err: the worst tensor of the role.\n" in text
    at_once = ("--set", "search.in_sequence=false")
    text = inside("build", "tiny.pt", "--budget", "20kB", *calib, *at_once).stdout
    assert " calibration tokens (predicted 0." in text
    assert "\nrel_err and SQNR: the worst tensor of the role.\n" in text


def test_damaged_artifacts_exit_4(folder, built, inside):
    blob = built[1].read_bytes()
    (folder / "short.golf").write_bytes(blob[:-100])
    flipped = bytearray(blob)
    flipped[len(blob) // 2] ^= 1
    (folder / "flipped.golf").write_bytes(flipped)
    (folder / "empty.golf").write_bytes(b"")
    for name, says in (("short", "bytes"), ("flipped", "sha256"), ("empty", "not a .golf")):
        run = inside("inspect", f"{name}.golf", "--json")
        assert_refused(run, ExitCode.CORRUPT, says)
    # From outside, once, for the exit code as the shell sees it.
    run = golfpack("unpack", "flipped.golf", "-o", "flipped.safetensors", cwd=folder)
    assert_refused(run, ExitCode.CORRUPT, "sha256")
    assert not list(folder.glob("*flipped.safetensors*"))


def test_inspect_and_unpack(folder, built, inside):
    run = inside("inspect", "tiny.golf", "--float", "tiny.pt", "--json")
    seen = json.loads(run.stdout)
    assert seen["sha256"] == json.loads(built[0].stdout)["artifact_sha256"]
    run = inside("inspect", "tiny.golf")
    assert not [line for line in run.stdout.splitlines() if line != line.rstrip()]
    assert all(t["name"] in run.stdout for t in seen["tensors"])
    assert inside("inspect", "tiny.golf", "--columns", "name,").stdout.startswith("   tensor\n")
    (folder / "odd [bold] name").mkdir()
    target = folder / "odd [bold] name" / "[x].safetensors"
    run = inside("unpack", "tiny.golf", "-o", target)
    assert run.returncode == 0, run.stderr
    assert "[bold]" in run.stderr
    assert target.is_file()


@pytest.mark.parametrize(
    "args",
    [
        ("build", "tiny.golf", "--budget", "20kB"),
        ("build", "tiny.golf", "--budget", "20kB", "-o", "again.golf"),
        ("build", "renamed.bin", "--budget", "20kB"),
        ("plan", "tiny.golf"),
        ("inspect", "tiny.golf", "--float", "tiny.golf"),
    ],
)
def test_an_artifact_is_no_checkpoint_and_the_hint_says_how_it_becomes_one(
    folder, built, inside, args
):
    (folder / "renamed.bin").write_bytes(built[1].read_bytes())
    run = inside(*args, "-q")
    assert_refused(run, ExitCode.USAGE, "is already an artifact, not a checkpoint")
    assert "give the checkpoint it was built from" in run.stderr
    assert "golfpack unpack " in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "args",
    [
        ("build", "tyni.golf", "--budget", "20kB"),
        ("inspect", "tyni.golf"),
        ("unpack", "tyni.golf"),
        ("eval", "tyni.golf", "--tokens", "train.bin", "--tokenizer", "none.model"),
        ("verify", "tyni.golf"),
        ("diff", "tyni.golf", "tiny.golf"),
        ("report", "tyni.golf"),
        ("report", "tyni.report.json"),
        ("verify", "tiny.golf", "--report", "tyni.report.json"),
        ("stats", "tyni.report.json", "--baseline", "tiny.report.json"),
    ],
)
def test_whoever_mistypes_a_file_is_shown_those_of_like_names(built, inside, args):
    run = inside(*args, *(() if args[0] in ("report", "stats") else ("-q",)))
    name = next(arg for arg in args if arg.startswith("tyni"))
    assert_refused(run, ExitCode.USAGE, f"there is no file {name}")
    assert name.replace("tyni", "tiny") in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("recipe", "says", "hint"),
    [
        ("nope.toml", "there is no recipe nope.toml", "golfpack list recipes"),
        ("int8-zlib.toml", "there is no recipe int8-zlib.toml", "golfpack is int8-zlib"),
        ("none/x.toml", "there is no recipe none/x.toml", "the folder none does not exist"),
        ("tiny.pt/x.toml", "cannot read recipe tiny.pt/x.toml: Not a dir", "check the path"),
    ],
)
def test_a_recipe_file_that_is_not_there_is_named_in_words(folder, inside, recipe, says, hint):
    run = inside("build", "tiny.pt", "--budget", "20kB", "--recipe", recipe, "-q")
    assert_refused(run, ExitCode.USAGE, says)
    assert "Errno" not in run.stderr
    assert hint in run.stderr.splitlines()[-1]


def test_unpack_replaces_nothing_unasked(folder, built, inside):
    mine = folder / "tiny.safetensors"
    mine.write_bytes(b"mine")
    assert inside("unpack", "tiny.golf").returncode == 0
    assert mine.read_bytes() == b"mine"
    sidecar = folder / "tiny.unpacked.config.json"
    (folder / "tiny.unpacked.safetensors").unlink()
    assert_refused(inside("unpack", "tiny.golf"), ExitCode.USAGE, f"{sidecar.name} exists")
    assert inside("unpack", "tiny.golf", "--force").returncode == 0
    assert_refused(inside("unpack", "tiny.golf"), ExitCode.USAGE, "safetensors exists")
    assert_refused(inside("unpack", "tiny.pt"), ExitCode.USAGE, "this is not a .golf artifact")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--tokens", "train.bin", "--set", "train.batch_tokens=abc"), "batch_tokens"),
        (("--tokens", "train.bin", "--set", "train.batch_token=64"), "batch_token"),
        (("--tokens", "train.bin", "--train-vocab", "300"), "--train-vocab"),
        (
            ("--text", "notes.txt", "--tokenizer", "x.model", "--train-vocab", "300"),
            "--train-vocab",
        ),
    ],
)
def test_train_ignores_no_option(folder, inside, args, says):
    assert_refused(inside("train", "--out", "run", *args), ExitCode.USAGE, says)
    assert not (folder / "run").exists()


def test_eval_names_a_device_it_does_not_have(inside, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, says in (("foo", "unknown device"), ("cuda", "no CUDA device")):
        run = inside(
            "eval", "tiny.pt", "--tokens", "train.bin", "--tokenizer", "x", "--device", device
        )
        assert_refused(run, ExitCode.USAGE, says)


def test_an_internal_fault_says_whose_it_is(inside, monkeypatch):
    monkeypatch.setattr(inspect_module, "inspect", None)
    for debug in ("", "1"):
        monkeypatch.setenv("GOLFPACK_DEBUG", debug)
        run = inside("inspect", "tiny.pt")
        assert run.returncode == ExitCode.INTERNAL
        assert "error: internal error: TypeError" in run.stderr
        assert ("Traceback" in run.stderr) == bool(debug)


_IMPORTS = """
import sys
sys.argv = ["golfpack", *{args!r}]
try:
    from golfpack.cli import main
    main()
except SystemExit as e:
    heavy = {{"torch", "numpy", "scipy", "numba", "rich.progress"}} & set(sys.modules)
    print("LOADED", sorted(heavy), e.code, file=sys.stderr)
"""


_COMPLETE = {
    "_GOLFPACK_COMPLETE": "complete_bash", "COMP_WORDS": "golfpack build x --recipe r",
    "COMP_CWORD": "4",
}  # fmt: skip


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--help"], {}), (["build", "--help"], {}), (["--version"], {}), (["bild"], {}),
        ([], _COMPLETE),
    ],
)  # fmt: skip
def test_help_and_completion_are_quick_because_they_import_nothing_heavy(args, env, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", _IMPORTS.format(args=args)],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert f"LOADED [] {2 if args == ['bild'] else 0}" in run.stderr, run.stderr


def test_eval_scores_an_artifact_and_its_checkpoint(shared, inside):
    checkpoint = shared / "checkpoints" / "golf_0.48M" / "final_model.pt"
    run = inside("build", checkpoint, "--budget", "4bpw", "--data-free", "-o", "x.golf", "-q")
    assert run.returncode == 0, run.stderr
    run = inside(
        "eval", "x.golf", "--float", checkpoint,
        "--tokens", shared / "data/shards/fineweb10B_sp1024_val_first262k.bin",
        "--tokenizer", shared / "data/tokenizers/fineweb_1024_bpe.model",
        "--limit", "4097", "--json", "--threads", "1",
    )  # fmt: skip
    report = json.loads(run.stdout)
    assert report["scored_tokens"] == 4096
    bits = report["val_loss"] * report["scored_tokens"] / np.log(2)
    assert report["val_bpb"] == pytest.approx(bits / report["scored_bytes"], rel=1e-9)
    assert report["quant_gap"] == pytest.approx(report["val_bpb"] - report["float_bpb"])
    assert -0.01 < report["quant_gap"] < 0.5

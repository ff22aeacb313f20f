"""`build --from`: the same bytes again, other inputs by name, and no file or code touched unasked."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from golfpack.cli import app
from golfpack.errors import ExitCode

QUIET = ("--threads", "1", "-q", "--no-cache")
MADE = (
    "tiny.pt", "--budget", "3.5bpw", "--calib", "train.bin", "--calib-tokens", "512", "--seed", "3",
    "--code", "code.py", "--set", "sense.damp=0.02", "--set", "search.max_rounds=3",
    "--set", "model.softcap=20", "-o", "x.golf", *QUIET,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_path, tiny_shard) -> Path:
    """A folder with a checkpoint, calibration tokens, code, and a build with options of every kind.

    Its recipe is a quick one: what a repeat has to tell does not hang on it.
    """
    path = tmp_path_factory.mktemp("made")
    shutil.copy(tiny_path, path / "tiny.pt")
    shutil.copy(tiny_shard, path / "train.bin")
    (path / "code.py").write_text("#" * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert CliRunner().invoke(app, ["build", *MADE, "--recipe", "sdclip-brotli"]).exit_code == 0
    return path


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def built(folder):
    """The report of its build."""
    return json.loads((folder / "x.report.json").read_text())


def again(inside, *args):
    return inside("build", "--from", "x.report.json", *args, "--json", *QUIET)


def refused(run, says: str, code: ExitCode = ExitCode.USAGE) -> None:
    assert run.returncode == code, run.stderr
    assert says in run.stderr
    if run.stdout:  # a build that had begun
        assert says in json.loads(run.stdout)["error"] + json.loads(run.stdout)["hint"]


def test_a_report_of_the_default_recipe_builds_the_same_bytes(inside, folder):
    made = inside("build", *MADE, "--force", "--json").report
    assert made["recipe"] == "rd"
    report = again(inside).report
    assert report["artifact_sha256"] == made["artifact_sha256"]
    assert not report["warnings"]


def test_a_report_builds_the_same_bytes(inside, folder, built):
    first = (folder / "x.golf").read_bytes()
    (folder / "x.golf").unlink()
    report = again(inside).report
    assert report["artifact_sha256"] == built["artifact_sha256"]
    assert (folder / "x.golf").read_bytes() == first
    assert not report["warnings"]
    for key in ("options", "passes", "inputs", "config", "seed", "recipe", "settings"):
        assert report[key] == built[key]
    # A replay's own report tells as much; and the artifact that is there already is no hindrance.
    assert again(inside, "--strict").report["artifact_sha256"] == built["artifact_sha256"]


def test_a_repeat_leaves_the_report_of_the_first_build(inside, folder, built):
    first = inside("build", "tiny.pt", "--budget", "3bpw", "--data-free", "--json", *QUIET).report
    assert first["argv"][:2] == ["build", "tiny.pt"]

    def lasting(report):
        passing = ("seconds", "peak_memory_bytes")
        return {k: v for k, v in report.items() if k not in passing}

    for _ in range(2):  # the second time from the report that the first repeat has written
        found = inside("build", "--from", "tiny.report.json", "--json", *QUIET).report
        assert lasting(found) == lasting(first)
        assert json.loads((folder / "tiny.report.json").read_text()) == found
    changed = again(inside, "--seed", "4", "-o", "y.golf").report
    assert changed["argv"][:3] == ["build", "--from", "x.report.json"]
    # Its own command line, which is what made it, outlives a repeat likewise.
    found = inside("build", "--from", "y.report.json", "--json", *QUIET).report
    assert found["argv"] == changed["argv"]


def test_a_build_for_a_quality_is_repeated_too(inside, folder):
    text = ("--calib", "train.bin", "--calib-tokens", "512", "--recipe", "gptq-lite")
    args = ("build", "tiny.pt", "--target-kl", "0.05", *text, "-o", "t.golf", "--json", *QUIET)
    first = inside(*args).report
    (folder / "t.golf").unlink()
    found = inside("build", "--from", "t.report.json", "--json", *QUIET).report
    assert found["artifact_sha256"] == first["artifact_sha256"]
    assert found["trace"] == first["trace"]
    assert (found["options"]["target_kl"], found["budget_bytes"]) == (0.05, None)
    assert not found["warnings"]


def test_from_another_folder_the_files_are_named(inside, folder, built, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "tiny.pt", elsewhere / "tiny.pt")
    run = again(inside)
    refused(run, "x.report.json was built from tiny.pt, and there is no such file")
    assert "hint: name it: golfpack build CHECKPOINT --from x.report.json" in run.stderr
    named = inside("build", elsewhere / "tiny.pt", "--from", "x.report.json", "--json", *QUIET)
    assert named.report["artifact_sha256"] == built["artifact_sha256"]


def test_the_command_line_wins(inside, folder, built):
    report = again(inside, "--budget", "5bpw", "--set", "search.slack=500", "-o", "y.golf").report
    assert report["artifact_bytes"] > built["artifact_bytes"]
    assert report["settings"] == [*built["settings"], "search.slack=500"]
    assert report["options"]["seed"] == 3
    assert not report["warnings"]
    report = again(inside, "--recipe", "int8-zlib", "--target-kl", "2", "-o", "z.golf",
                   "--set", "sense.damp=0.03").report  # fmt: skip
    assert (report["recipe"], report["budget_bytes"]) == ("int8-zlib", None)
    # Other options under the recorded name would replace the artifact.
    refused(again(inside, "--budget", "5bpw"), "x.golf exists")


def test_inputs_that_are_not_what_they_were_are_named(inside, folder, built):
    tokens = (folder / "train.bin").read_bytes()
    (folder / "moved.bin").write_bytes(tokens)
    (folder / "train.bin").write_bytes(tokens[:-2] + b"\1\0")
    (folder / "code.py").write_text("#" * 99 + "!")
    run = again(inside, "-o", "y.golf")
    refused(run, "calibration train.bin (sha256 ")
    assert "code code.py (sha256 " in run.stderr
    assert "tiny.pt" not in run.stderr
    (folder / "code.py").write_text("#" * 100)
    assert (
        again(inside, "--calib", "moved.bin").report["artifact_sha256"] == built["artifact_sha256"]
    )
    # Named anew, it is another build, and told so.
    (warning,) = again(inside, "--calib", "train.bin", "-o", "y.golf").report["warnings"]
    assert "calibration train.bin (sha256 " in warning
    (folder / "tiny.config.json").write_text('{"rope_base": 500}')
    refused(again(inside, "-o", "y.golf", "--calib", "moved.bin"), "model option rope_base")
    (folder / "tiny.config.json").unlink()
    (folder / "code.py").unlink()
    refused(again(inside, "-o", "y.golf", "--calib", "moved.bin"), "code.py")


def test_what_lies_under_the_recorded_name_is_left_alone(inside, folder, built):
    (folder / "x.golf").write_bytes(b"mine")
    refused(again(inside), "x.golf exists and is not the artifact")
    assert (folder / "x.golf").read_bytes() == b"mine"


def test_other_bytes_are_told_and_kept_apart(inside, folder, built):
    # As if another version had built other bytes.
    (folder / "x.golf").write_bytes(b"theirs")
    theirs = hashlib.sha256(b"theirs").hexdigest()
    versions = {**built["versions"], "torch": "1.0"}
    report = {**built, "artifact_sha256": theirs, "versions": versions}
    (folder / "x.report.json").write_text(json.dumps(report))
    found = again(inside).report
    (warning,) = found["warnings"]
    assert theirs[:16] in warning
    assert "versions that differ: torch 1.0 -> " in warning
    assert found["artifact"] == "x.replayed.golf"
    assert found["artifact_sha256"] == built["artifact_sha256"]
    assert (folder / "x.golf").read_bytes() == b"theirs"
    refused(again(inside, "--strict"), theirs[:16], ExitCode.STRICT)


NET = """
from torch import nn
open("ran.txt", "a").write("x")

class Net(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.emb = nn.Embedding(vocab, 16)
        self.head = nn.Linear(16, vocab, bias=False)

    def forward(self, ids):
        return self.head(self.emb(ids))
"""


def test_code_of_the_users_runs_only_when_named_again(inside, folder):
    (folder / "net.py").write_text(NET)
    weights = {n: torch.ones(256, 16) for n in ("emb.weight", "head.weight")}
    torch.save(weights, folder / "net.pt")
    model = ("--model", "net.py:Net")
    args = ("--budget", "30kB", "--data-free", "-o", "x.golf", "--force", "--json", *QUIET)
    built = inside("build", "net.pt", *model, "--model-args", "vocab=256", *args).report
    ran = (folder / "ran.txt").read_text()
    refused(again(inside), "add --model net.py:Net")
    assert (folder / "ran.txt").read_text() == ran
    # The class's arguments are data, and come from the report.
    assert again(inside, *model).report["artifact_sha256"] == built["artifact_sha256"]
    (folder / "net.py").write_text(NET + "# changed")
    assert "model net.py" in again(inside, *model, "-o", "y.golf").report["warnings"][0]


def test_a_failed_build_can_be_built_again_with_more(inside, folder):
    (folder / "x.golf").unlink()
    args = ("--calib", "train.bin", "--calib-tokens", "512", "-o", "x.golf", *QUIET)
    assert inside("build", "tiny.pt", "--budget", "2kB", *args).returncode == ExitCode.OVER_BUDGET
    failed = folder / "x.failed.report.json"
    report = inside("build", "--from", failed, "--budget", "20kB", "--json", *QUIET).report
    assert (report["artifact"], report["calibration"]["tokens"]) == ("x.golf", 512)
    assert not failed.exists()
    # Whatever a failure leaves behind, the report of what exists stays.
    kept = (folder / "x.report.json").read_text()
    assert inside("build", "tiny.pt", "--budget", "2kB", *args).returncode == ExitCode.OVER_BUDGET
    assert (folder / "x.report.json").read_text() == kept
    assert failed.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON: it is not even text"),
        ("[]", "holds no JSON object"),
        ('{"schema_version": 1}', "not a report that tells how to build again"),
        ('{"options": {}, "passes": [], "schema_version": 99}', "schema version 99"),
        ('{"options": {}, "passes": [], "schema_version": 1}', "has no 'calibrates'"),
    ],
)
def test_what_is_no_report_is_refused(inside, folder, text, says):
    (folder / "x.report.json").write_text(text, encoding="latin-1")
    refused(again(inside), says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint": 3}, "checkpoint cannot be 3"),
        ({"checkpoint": "c.pt", "settings": [1]}, "settings[0] cannot be 1"),
        ({"checkpoint": "c.pt", "hidden": 1}, "no option 'hidden'"),
        ({"threads": 7}, "has no 'checkpoint'"),
    ],
)
def test_options_that_make_no_sense_are_refused(inside, folder, options, says):
    report = {
        "options": options, "passes": [], "calibrates": "none", "recipe": None, "config": {},
        "checkpoint_sha256": None, "inputs": [], "versions": {}, "calibration": None,
        "schema_version": 1,
    }  # fmt: skip
    (folder / "x.report.json").write_text(json.dumps(report))
    refused(again(inside), says)


def test_nothing_to_build(inside):
    refused(inside("build", "--budget", "1MB"), "nothing to build")

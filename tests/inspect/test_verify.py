"""`verify`: a damaged byte is found where it is, and a report of another file is none of this one."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import asked

from golfpack.build.run import build
from golfpack.errors import ExitCode, UsageError
from golfpack.inspect import verify as verify_module
from golfpack.inspect.verify import verify
from golfpack.packer.format.container import DIGEST, HEADER, assemble, parse


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_path, tiny_shard) -> Path:
    """A folder with a checkpoint, an artifact of it, and the report beside it."""
    path = tmp_path_factory.mktemp("verify")
    (path / "tiny.pt").write_bytes(tiny_path.read_bytes())
    build(
        asked(
            path / "tiny.pt", "20kB", path / "x.golf", calib=str(tiny_shard), calib_tokens=512,
            cache=False,
        )
    )  # fmt: skip
    return path


def statuses(path: Path, **options: object) -> dict[str, str]:
    report = verify(path, **options)  # type: ignore[arg-type]
    assert report.passed == ("failed" not in {c.status for c in report.checks})
    return {c.name: c.status for c in report.checks}


def test_a_whole_file_passes_every_check(folder):
    path = folder / "x.golf"
    found = verify(path, folder / "x.report.json", folder / "tiny.pt")
    names = ["frame", "stream steps", "stream codes", "file", "tensors", "model"]
    assert [c.name for c in found.checks] == [*names, "encoding", "report", "checkpoint"]
    assert {c.status for c in found.checks} == {"ok"}
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bytes == path.stat().st_size


def places(blob: bytes) -> dict[str, tuple[int, str]]:
    """Offsets of one byte of every part of a file -> the check that must find it altered."""
    streams = parse(blob).streams
    at = len(blob) - DIGEST - sum(map(len, streams.values()))
    found = {
        "magic": (0, "frame"),
        "version": (4, "frame"),
        "manifest size": (9, "frame"),
        "manifest": (HEADER.size + 20, "frame"),
        "file digest": (len(blob) - 1, "file"),
    }
    short = 8  # of the sha256 of each stream
    digests = at - short * len(streams)
    for i, (name, data) in enumerate(streams.items()):
        found[f"first of {name}"] = (at, f"stream {name}")
        found[f"last of {name}"] = (at + len(data) - 1, f"stream {name}")
        found[f"digest of {name}"] = (digests + short * i + 7, f"stream {name}")
        at += len(data)
    return found


def test_a_flipped_bit_is_found_in_the_part_it_is_in(folder, tmp_path):
    blob = (folder / "x.golf").read_bytes()
    for what, (at, check) in places(blob).items():
        damaged = bytearray(blob)
        damaged[at] ^= 16
        path = tmp_path / "damaged.golf"
        path.write_bytes(damaged)
        found = statuses(path)
        failed = [name for name, status in found.items() if status == "failed"]
        assert check in failed, what
        # The digest of the whole sees all of it; nothing else is blamed, and nothing is decoded.
        assert set(failed) <= {check, "file"}, what
        assert found["tensors"] == found["model"] == found["encoding"] == "skipped", what


@pytest.mark.parametrize("keep", [0, 3, 16, 60, 0.5, -1])
def test_a_truncated_file_fails_in_its_frame(folder, tmp_path, keep):
    blob = (folder / "x.golf").read_bytes()
    path = tmp_path / "short.golf"
    path.write_bytes(blob[: int(keep * len(blob)) if isinstance(keep, float) else keep])
    found = statuses(path)
    assert found["frame"] == "failed"
    assert {s for name, s in found.items() if name != "frame"} == {"skipped"}


def test_an_appended_byte_is_found(folder, tmp_path):
    path = tmp_path / "long.golf"
    path.write_bytes((folder / "x.golf").read_bytes() + b"\0")
    assert statuses(path)["frame"] == "failed"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"artifact_sha256": "0" * 64, "artifact": "y.golf"},
            "another artifact, written to y.golf: ",
        ),
        ({"artifact_sha256": "0" * 64, "artifact": None}, "another artifact: sha256 " + "0" * 16),
        ({"artifact_bytes": 7}, "another artifact_bytes: 7, not"),
        ({"budget_bytes": 19_000}, "another headroom_bytes"),
        ({"budget_bytes": 1_000, "headroom_bytes": None}, "headroom_bytes"),
        ({"code_bytes": 10}, "another headroom_bytes"),
        ({"family": "llama"}, "another family"),
        ({"config": {}}, "another config"),
        ({"tensors": []}, "another tensors"),
    ],
)
def test_a_report_that_says_something_else_fails(folder, tmp_path, changes, says):
    told = json.loads((folder / "x.report.json").read_text())
    path = tmp_path / "told.report.json"
    path.write_text(json.dumps({**told, **changes}))
    check = verify(folder / "x.golf", path).checks[-1]
    assert (check.name, check.status) == ("report", "failed")
    assert says in check.detail


def test_a_report_of_another_artifact_does_not_blame_the_file(folder, inside):
    told = json.loads((folder / "x.report.json").read_text())
    own, other = told["artifact_sha256"], hashlib.sha256(b"other").hexdigest()
    (folder / "y.report.json").write_text(json.dumps({**told, "artifact_sha256": other}))
    run = inside("verify", "x.golf", "--report", "y.report.json", "-q")
    assert run.returncode == ExitCode.CORRUPT
    error, hint = run.stderr.splitlines()
    assert f"sha256 {other[:16]}, and this file's is {own[:16]}" in error
    assert hint.startswith("hint: the file is whole; give the .report.json of its own build")


def test_an_artifact_over_its_budget_fails_even_where_the_report_says_so(folder, tmp_path):
    told = json.loads((folder / "x.report.json").read_text())
    size = told["artifact_bytes"]
    path = tmp_path / "over.report.json"
    path.write_text(json.dumps({**told, "budget_bytes": size - 5, "headroom_bytes": -5}))
    check = verify(folder / "x.golf", path).checks[-1]
    assert (check.status, check.detail) == ("failed", "the file is 5 bytes over its budget")


def test_a_checkpoint_of_another_model_or_build_fails(folder, tmp_path):
    state = torch.load(folder / "tiny.pt", weights_only=True)
    other = {n: w[:, :40].clone() if n == "tok_emb.weight" else w for n, w in state.items()}
    torch.save(other, tmp_path / "other.pt")
    assert statuses(folder / "x.golf", against=tmp_path / "other.pt")["checkpoint"] == "failed"
    torch.save({f"x.{n}": w for n, w in state.items()}, tmp_path / "alien.pt")
    alien = verify(folder / "x.golf", against=tmp_path / "alien.pt").checks[-1]
    assert alien.status == "failed"
    assert "no model of family golf" in alien.detail
    torch.save({n: w + 1 for n, w in state.items()}, tmp_path / "later.pt")
    report = folder / "x.report.json"
    found = verify(folder / "x.golf", report, tmp_path / "later.pt").checks[-1]
    assert (found.status, found.detail) == (
        "failed", "the report is of a build from another checkpoint",
    )  # fmt: skip


def test_other_bytes_for_the_same_tensors_are_no_fault(folder, monkeypatch):
    blob = (folder / "x.golf").read_bytes()
    other = build(asked(folder / "tiny.pt", "20kB", folder / "y.golf", data_free=True, cache=False))
    assert other.artifact is not None
    monkeypatch.setattr(verify_module, "encode_again", lambda artifact: blob)
    # The same bytes are ok, those of other tensors are not.
    assert statuses(folder / "x.golf")["encoding"] == "ok"
    assert statuses(Path(other.artifact))["encoding"] == "failed"
    artifact = verify_module.loads(blob)
    monkeypatch.setattr(verify_module, "encode_again", lambda artifact: b"other")
    monkeypatch.setattr(verify_module, "loads", lambda blob: artifact)
    found = verify(folder / "x.golf")
    assert {c.name: c.status for c in found.checks}["encoding"] == "differs"
    assert found.passed


@pytest.mark.parametrize(
    ("key", "value"),
    [("codes", 5), ("codes", [1]), ("codes", {}), ("source", {"dtypes": {"w": 7}})],
)
def test_a_manifest_that_makes_no_sense_fails_a_check(folder, tmp_path, key, value):
    """Its digests are right: it was edited with them."""
    built = asked(folder / "tiny.pt", None, tmp_path / "l.golf", lossless=True, cache=False)
    build(built)
    container = parse((tmp_path / "l.golf").read_bytes())
    manifest = {**container.manifest, key: value}
    (tmp_path / "e.golf").write_bytes(assemble(manifest, container.streams))
    found = statuses(tmp_path / "e.golf")
    assert "failed" in found.values()


def test_weights_that_are_not_finite_fail(folder, monkeypatch):
    real = verify_module.loads

    def broken(blob: bytes):
        artifact = real(blob)
        first = next(iter(artifact.tensors))
        weights = {**artifact.weights(), first: np.float32([np.nan])}
        object.__setattr__(artifact, "weights", lambda: weights)
        return artifact

    monkeypatch.setattr(verify_module, "loads", broken)
    assert statuses(folder / "x.golf")["tensors"] == "failed"


@pytest.mark.parametrize(
    ("path", "report", "against", "says"),
    [
        ("none.golf", None, None, "none.golf"),
        ("tiny.pt", None, None, "not an artifact"),
        ("x.golf", "none.json", None, "none.json"),
        ("x.golf", "tiny.pt", None, "is not JSON: it is not even text"),
        ("x.golf", None, "none.pt", "none.pt"),
    ],
)
def test_what_cannot_be_verified_is_bad_input(folder, path, report, against, says):
    with pytest.raises(UsageError, match=says):
        verify(
            folder / path,
            None if report is None else folder / report,
            None if against is None else folder / against,
        )


def test_the_command_prints_a_line_per_check_and_exits_4_for_damage(folder, inside):
    run = inside("verify", "x.golf", "--report", "x.report.json", "-q")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 10
    assert all(line.split()[:3].count("ok") == 1 for line in lines[:-2])
    # What is hashed is said of both figures: all but the digest, and the file as sha256sum has it.
    blob = (folder / "x.golf").read_bytes()
    inner, whole = (hashlib.sha256(b).hexdigest() for b in (blob[:-DIGEST], blob))
    (line,) = (line for line in lines if line.startswith("file "))
    size = len(blob) - DIGEST
    assert line.endswith(f"{size:,} bytes before the digest at its end, sha256 {inner[:16]}")
    assert lines[-2:] == [
        f"x.golf is whole: {len(blob):,} bytes",
        f"sha256 of the file, digest included: {whole}",
    ]
    blob = bytearray((folder / "x.golf").read_bytes())
    blob[-40] ^= 1
    (folder / "bad.golf").write_bytes(blob)
    run = inside("verify", "bad.golf", "-q")
    assert run.returncode == ExitCode.CORRUPT
    assert "FAILED" in run.stdout
    assert run.stderr.splitlines()[-2].startswith("error: bad.golf: stream codes: ")
    run = inside("verify", "bad.golf", "--json", "-q")
    assert run.returncode == ExitCode.CORRUPT
    assert not json.loads(run.stdout)["passed"]

"""Artifact and code share a budget: never over, and close to it."""

import json
import subprocess
import sys

import pytest
from submission.tiny import make_home, options_of

from golfpack.errors import BudgetError, UsageError
from golfpack.submission import build as build_module
from golfpack.submission.build import build_submission
from golfpack.submission.count import count
from golfpack.submission.packed import packed_code


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory)


@pytest.mark.parametrize("recipe", ["rd", pytest.param("sdclip-brotli", marks=pytest.mark.slow)])
def test_artifact_and_script_fill_the_budget(home, tmp_path, monkeypatch, recipe):
    tried = []
    real = build_module.build
    monkeypatch.setattr(build_module, "build", lambda *a: tried.append(a) or real(*a))
    (tmp_path / "mine.py").write_text("x = 1\n")
    budget = 47_123
    options = options_of(
        home, str(budget), tmp_path / "out.golf", recipe=recipe, code=(tmp_path / "mine.py",)
    )
    shared = build_submission(options, tmp_path / "s", "sgd")
    seen = count(tmp_path / "s")
    assert seen.total == shared.submission.total_bytes
    assert 0 <= shared.submission.headroom_bytes == budget - seen.total
    if recipe == "rd":
        assert shared.submission.headroom_bytes <= 64
    assert seen.code == shared.build.code_bytes
    assert (tmp_path / "s" / "model.golf").read_bytes() == (tmp_path / "out.golf").read_bytes()
    # What the default recipe writes is known before; another decoder takes another build.
    assert len(tried) == {"rd": 1, "sdclip-brotli": 2}[recipe]
    needs = (tmp_path / "s" / "requirements.txt").read_text()
    assert ("brotli" in needs) == (recipe != "rd")
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert [f["bytes"] for f in report["inputs"] if f["use"] == "code"] == [seen.script, 6]


def test_what_fails_leaves_no_folder(home, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "make_script", lambda *_: b"pass\n")
    with pytest.raises(BudgetError):
        build_submission(options_of(home, "1500", tmp_path / "o.golf"), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    with pytest.raises(UsageError, match="neither --dry-run nor --from"):
        build_submission(
            options_of(home, "9000", tmp_path / "o.golf", dry_run=True), tmp_path / "s"
        )


PROGRAM = '''
"""A program of its user's."""

from dataclasses import dataclass
import sys


@dataclass
class Point:  # with a comment
    x: int = 3

    def twice(self):
        """Docstrings stay: programs read them."""
        return 2 * self.x if self.x else \\
            0


def text(a, b=1): return f"{a!r:>{b}}" + """
  kept   as it is # no comment
"""


if __name__ == "__main__":
    if len(sys.argv) > 1: print("more")
    print(Point().twice(), text("q", 9), Point.twice.__doc__, __doc__)
'''


def test_packed_code_is_the_same_program(tmp_path):
    plain, small = tmp_path / "a.py", tmp_path / "b.py"
    plain.write_text(PROGRAM + "\n# words\n" * 400)
    data = packed_code(plain)
    small.write_bytes(data)
    assert data.count(b"\n") == 3
    assert len(data) < plain.stat().st_size / 2
    ran = [
        subprocess.run([sys.executable, str(p), "x"], capture_output=True, text=True, check=True)
        for p in (plain, small)
    ]
    assert ran[0].stdout == ran[1].stdout
    assert "kept   as it is # no comment" in ran[0].stdout


def test_code_that_asks_for_its_own_source_is_not_packed(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import triton\n@triton.jit\ndef f(x):\n    return x\n")
    with pytest.raises(UsageError, match=r"uses triton\.jit"):
        packed_code(path)
    path.write_text("def f(:\n")
    with pytest.raises(UsageError, match="no Python that can be packed"):
        packed_code(path)
    with pytest.raises(UsageError, match="there is no --code"):
        packed_code(tmp_path / "none.py")

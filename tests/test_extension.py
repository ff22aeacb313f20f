"""A stranger's first day: each of the docs' examples is one new file, one line of a table, and works.

The examples are taken out of the docs and put into a copy of the package, where they are run through the
commands and through the tests that go over the tables.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from golfpack.data.shards import write_shard

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```python\n# (golfpack/\S+\.py)\n(.*?)```", re.DOTALL)
RECIPE = """
name = "mine"
about = "Of a test."
[[pass]]
id = "policy"
rules = [{{ roles = ["vector"], scheme = "keep" }}, {{ scheme = "int", bits = 6, clip = "{clip}" }}]
{more}
[[pass]]
id = "sense"
[[pass]]
id = "clip"
[[pass]]
id = "steps"
[[pass]]
id = "round"
[[pass]]
id = "encode"
codec = "{codec}"
"""


@dataclass(frozen=True)
class Addition:
    """What somebody adds.

    Attributes:
        doc: the page of docs/ with the example.
        table: the file of the table.
        line: the beginning of the table's line, and what stands there with the new name in it.
        imports: the new name's import, or None where the table needs none.
        build: values for RECIPE of a build that uses it; None: no build of a golf model does.
        tests: what to run on the copy besides.
    """

    doc: str
    table: str
    line: tuple[str, str]
    imports: str | None
    build: dict[str, str] | None = None
    tests: tuple[str, ...] = ()


BUILD = {"clip": "sd", "codec": "zlib", "more": ""}
ADDITIONS = {
    "codec": Addition(
        "writing_a_codec.md", "packer/format/codecs.py",
        ("Store)}", "Bzip2, Store)}"),
        "from golfpack.packer.format.bzip2 import Bzip2", BUILD | {"codec": "bzip2"},
        ("tests/packer/format/test_coding_bytes.py", "-k", "bzip2"),
    ),
    "clip rule": Addition(
        "writing_a_quantizer.md", "packer/quantize/clip.py",
        ("in (RowMax,", "in (RowMax, Rms,"),
        "from golfpack.packer.quantize.rms import Rms", BUILD | {"clip": "rms"},
        ("tests/packer/test_schemes.py", "-k", "rms"),
    ),
    "pass": Addition(
        "writing_a_pass.md", "packer/recipe.py",
        ("    for p in (\n        ", "    for p in (\n        SpareRows, "),
        "from golfpack.packer.passes.spare_rows import SpareRows",
        BUILD | {"more": '[[pass]]\nid = "spare_rows"\nshare = 0.1'},
        ("tests/packer/test_recipe.py",),
    ),
    "family": Addition(
        "writing_a_family.md", "models/__init__.py",
        ("        GOLF,\n", "        GOLF,\n        BIGRAM,\n"),
        "from golfpack.models.bigram.family import BIGRAM", None,
        ("tests/models/test_folds.py", "tests/models/test_families.py"),
    ),
    "command": Addition(
        "writing_a_command.md", "cli.py",
        ('    "env": "env",\n', '    "env": "env",\n    "shapes": "shapes",\n'), None, None,
        ("tests/test_docs.py", "-k", "says_what_it_is_for and shapes"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The folder of a copy of the package that has all of them."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "golfpack", folder / "golfpack")
    for what in ADDITIONS.values():
        [(file, code)] = BLOCK.findall((ROOT / "docs" / what.doc).read_text())
        assert not (folder / file).exists()
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(code)
        (folder / file).with_name("__init__.py").touch()  # of a new folder
        table = folder / "golfpack" / what.table
        source, (old, new) = table.read_text(), what.line
        assert source.count(old) == 1, f"{what.table} looks different now: correct {what.doc} too"
        source = source.replace(old, new)
        if what.imports is not None:
            source = source.replace("\nfrom golfpack.", f"\n{what.imports}\nfrom golfpack.", 1)
        table.write_text(source)
    return folder


COMMANDS = """
import json, sys
from golfpack import cli
print(cli.__file__)
for words in json.loads(sys.argv[1]):
    sys.argv = ["golfpack", *words]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""


def run(folder: Path, *args: str) -> str:
    """Standard output of python with the copy in place of the package."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_they_work_by_command(copy, tiny_path, tmp_path):
    commands: list[tuple[str | Path, ...]] = []
    wanted = []
    for name, what in ADDITIONS.items():
        if what.build is not None:
            recipe, artifact = (tmp_path / f"{name}{end}" for end in (".toml", ".golf"))
            recipe.write_text(RECIPE.format(**what.build))
            budget = ("--budget", "8bpw", "--data-free", "--output", artifact)
            commands += [("build", tiny_path, "--recipe", recipe, *budget), ("verify", artifact)]
            wanted.append("is whole")
    table = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    torch.save({"table.weight": table}, tmp_path / "pairs.pt")
    write_shard(tmp_path / "train.bin", np.random.default_rng(0).integers(3, 64, 8192))
    text = ("--calib", tmp_path / "train.bin", "--calib-tokens", "512")
    output = ("--output", tmp_path / "pairs.golf")
    commands += [
        ("build", tmp_path / "pairs.pt", "--budget", "6bpw", *text, *output),
        ("inspect", tmp_path / "pairs.golf"),
        ("shapes", ROOT / "tests" / "golden" / "v1-rans.golf"),
        ("--help",),
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    where, told = run(copy, "-c", COMMANDS, words).split("\n", 1)
    assert where.startswith(str(copy))
    for said in (*wanted, "family bigram", "256x48", "Usage", "shapes"):
        before, found, told = told.partition(said)
        assert found, before


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDITIONS)
def test_tests_over_the_tables_take_it_in(name, copy):
    for folder in ("tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, dirs_exist_ok=True)
    for file in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, copy)
    said = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ADDITIONS[name].tests)
    assert re.search(r"[1-9]\d* passed", said)

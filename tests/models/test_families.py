"""The table of families: cheap to import, and a folder for each."""

import subprocess
import sys

from golfpack import models


def test_importing_the_families_loads_no_compiler_and_no_pass():
    """Whoever opens a model pays for torch, and not for what rounds or codes it."""
    code = "import sys, golfpack.models.choose, golfpack.models.checkpoint; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "golfpack.models.golf.net" in loaded
    heavy = (
        "numba",
        "scipy",
        "triton",
        "golfpack.packer",
        "golfpack.calib",
        "golfpack.data.tokenizer",
    )
    assert [m for m in loaded if m.startswith(heavy)] == []


def test_a_family_is_a_folder_and_a_line():
    for name, family in models.FAMILIES.items():
        home = f"golfpack.models.{name}" + ("" if name == "tensors" else ".family")
        assert getattr(sys.modules[home], name.upper()) is family

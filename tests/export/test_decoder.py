"""The stand-alone decoder: golfpack's bits or one error, with numpy and Python's own library alone."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed as build

from golfpack.errors import CorruptError, UsageError
from golfpack.export.decoder import packed, readable, uses
from golfpack.packer.format.container import HEADER, VERSIONS, divide
from golfpack.packer.format.loader import loads
from golfpack.packer.recipe import load_recipe, recipe_names

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden"
sys.path.append(str(TESTS / "packer" / "format"))

from artifact_sample import CODINGS, small_blob, small_parts  # noqa: E402
from test_hostile import GROUP_LIES, LIES, assemble  # noqa: E402

Load = Callable[[Path], dict[str, np.ndarray]]

# Decodes in a Python of its own; nothing but the standard library and what is named can be imported.
_BARE = """
import hashlib, json, sys
allowed = set(sys.stdlib_module_names) | {"numpy", *json.loads(sys.argv[2])}

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"there is no {name} here")

sys.meta_path.insert(0, Wall())
for decoder, artifact in json.loads(sys.argv[1]):
    space = {"__name__": "golf_decode"}
    exec(compile(open(decoder, "rb").read(), decoder, "exec"), space)
    digest = hashlib.sha256()
    for name, w in space["load"](artifact).items():
        assert str(w.dtype) == "float32"
        digest.update(json.dumps([name, list(w.shape)]).encode() + w.tobytes())
    print(digest.hexdigest())
"""


def digest(weights: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, w in weights.items():
        found.update(json.dumps([name, list(w.shape)]).encode() + w.tobytes())
    return found.hexdigest()


def forms(blob: bytes, ties: dict[str, str] | None = None) -> dict[str, bytes]:
    """The decoder of an artifact, both ways."""
    artifact = loads(blob)
    return {
        "readable": readable(artifact, ties or {}).encode(),
        "packed": packed(artifact, ties or {}),
    }


def loader(code: bytes) -> tuple[Load, type[Exception]]:
    """`load` of a decoder's code, and its error."""
    space: dict[str, Any] = {"__name__": "golf_decode"}
    exec(compile(code, "golf_decode.py", "exec"), space)
    return space["load"], space["DecodeError"]


@pytest.fixture(scope="module")
def blobs(make_state) -> dict[str, bytes]:
    """An artifact of every recipe, of every coding of the sample, and every golden file."""
    found = {}
    for name in recipe_names():
        blob = build(load_recipe(name), make_state(34_000)).blob
        assert blob is not None
        found[name] = blob
    found |= {f"sample {coding}": small_blob(coding) for coding in CODINGS}
    return found | {p.name: p.read_bytes() for p in sorted(GOLDEN.glob("*.golf"))}


def in_bare_python(pairs: list[tuple[Path, Path]], packages: list[str]) -> list[str]:
    command = [sys.executable, "-I", "-c", _BARE, json.dumps([[str(p) for p in x] for x in pairs])]
    run = subprocess.run([*command, json.dumps(packages)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_every_artifact_decodes_alike_without_golfpack(blobs, tmp_path):
    pairs: list[tuple[Path, Path]] = []
    expected: list[str] = []
    alone: list[bool] = []
    for name, blob in blobs.items():
        artifact = tmp_path / f"{name}.golf"
        artifact.write_bytes(blob)
        for form, code in forms(blob).items():
            decoder = tmp_path / f"{name}.{form}.py"
            decoder.write_bytes(code)
            pairs.append((decoder, artifact))
            expected.append(digest(loads(blob).weights()))
            alone.append(not uses(loads(blob)).packages)
    packages = ["brotli", "_brotli", "zstandard", "_cffi_backend", "cffi"]
    assert in_bare_python(pairs, packages) == expected
    # What the decoder says it can do without, it does without.
    some = [pair for pair, a in zip(pairs, alone, strict=True) if a]
    assert len(some) >= 4
    assert in_bare_python(some, []) == [e for e, a in zip(expected, alone, strict=True) if a]


def test_the_file_says_what_it_needs(blobs):
    for blob in blobs.values():
        artifact = loads(blob)
        top = readable(artifact, {}).partition("import ")[0]
        for package in ("brotli", "zstandard"):
            assert (f"and {package}" in top) == (package in uses(artifact).packages)
        assert ("`rd`" in top) == bool(uses(artifact).packages)
    assert uses(loads(blobs["rd"])).packages == []
    assert "brotli" not in readable(loads(blobs["rd"]), {})


def test_what_is_not_used_is_left_out(blobs):
    rd = readable(loads(blobs["rd"]), {})
    for gone in ("class Zlib", "class Shuffle", "_decode_bytes", "def encode", "numba", "torch"):
        assert gone not in rd
    assert "rans" not in readable(loads(blobs["int8-zlib"]), {}).replace("`rans", "")


def test_a_tied_tensor_has_all_its_names(blobs, tmp_path):
    path = tmp_path / "x.golf"
    path.write_bytes(blobs["rd"])
    names = list(loads(blobs["rd"]).tensors)
    for code in forms(blobs["rd"], {"head.weight": names[0], "head.bias": "no such"}).values():
        load, _ = loader(code)
        found = load(path)
        assert list(found) == [*names, "head.weight"]
        assert found["head.weight"] is found[names[0]]


def test_another_codec_is_refused(blobs, tmp_path):
    path = tmp_path / "x.golf"
    for made_for, given in (("rd", "sdclip-brotli"), ("sample bytes", "sample groups")):
        path.write_bytes(blobs[given])
        for code in forms(blobs[made_for]).values():
            load, error = loader(code)
            with pytest.raises(error):
                load(path)


# --- damage --------------------------------------------------------------------------------------------


def sealed(blob: bytes) -> bytes:
    """A damaged artifact with digests that match, where its parts can still be told."""
    try:
        frame = divide(blob)
    except CorruptError:
        return blob
    size = VERSIONS[frame.version].part_digest
    packed_size = HEADER.unpack_from(blob)[2]
    head = blob[: HEADER.size + packed_size]
    digests = [hashlib.sha256(data).digest()[:size] for _, data, _ in frame.parts]
    body = head + b"".join(digests) + b"".join(data for _, data, _ in frame.parts)
    return body + hashlib.sha256(body).digest()


def mutated(blob: bytes, rng: np.random.Generator, seal: bool) -> bytes:
    """A byte changed, bytes cut out, or bytes put in."""
    at = int(rng.integers(len(blob)))
    kind = int(rng.integers(6))
    if kind == 0:
        out = blob[:at] + blob[at + int(rng.integers(1, 9)) :]
    elif kind == 1:
        out = blob[:at] + rng.bytes(int(rng.integers(1, 9))) + blob[at:]
    else:
        changed = bytearray(blob)
        changed[at] ^= int(rng.integers(1, 256))
        out = bytes(changed)
    return sealed(out) if seal else out


def outcome(load: Load, error: type[Exception], path: Path) -> str | None:
    """The digest of what is decoded; None for the one error. Anything else that is raised fails."""
    try:
        return digest(load(path))
    except error:
        return None


def expected_of(blob: bytes) -> str | None:
    try:
        return digest(loads(blob).weights())
    except CorruptError:
        return None


def damage(blob: bytes, count: int, path: Path, form: str) -> dict[str, int]:
    """Decode mutated files, half of them sealed again; counts what became of them."""
    load, error = loader(forms(blob)[form])
    whole = expected_of(blob)
    seen = dict.fromkeys(("refused", "whole", "other"), 0)
    rng = np.random.default_rng(len(blob))
    for k in range(count):
        bad = mutated(blob, rng, seal=k % 2 == 1)
        path.write_bytes(bad)
        found, expected = outcome(load, error, path), expected_of(bad)
        if form == "readable" or found is not None:
            # Where digests were made to match, golfpack's loader says what the file holds.
            assert found == expected, (k, found, expected)
        if k % 2 == 0:
            assert found is None or found == whole
        seen["refused" if found is None else "whole" if found == whole else "other"] += 1
    return seen


@pytest.mark.parametrize("form", ["readable", "packed"])
@pytest.mark.parametrize("coding", CODINGS)
def test_damaged_files_end_in_one_error(coding, form, tmp_path):
    seen = damage(small_blob(coding), 60, tmp_path / "x.golf", form)
    assert seen["refused"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("form", ["readable", "packed"])
@pytest.mark.parametrize("name", [*CODINGS, "v2-rans.golf"])
def test_a_thousand_damaged_files_end_in_one_error(name, form, tmp_path):
    blob = small_blob(name) if name in CODINGS else (GOLDEN / name).read_bytes()
    assert damage(blob, 1000, tmp_path / "x.golf", form)["refused"] > 500


@pytest.mark.parametrize("coding", ["bytes", "groups"])
def test_lies_in_the_manifest_are_refused(coding, tmp_path):
    load, error = loader(readable(loads(small_blob(coding)), {}).encode())
    path = tmp_path / "x.golf"
    for lie, tell in (LIES if coding == "bytes" else GROUP_LIES).items():
        manifest, streams = small_parts(coding)
        tell(manifest)
        path.write_bytes(assemble(manifest, streams))
        with pytest.raises(error):
            load(path)
            pytest.fail(lie)


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_the_command_writes_both_files(inside, folder, blobs):
    (folder / "x.golf").write_bytes(blobs["rd"])
    report = inside("export", "x.golf", "--out", "dist", "--json").report
    assert report["packages"] == []
    code = (folder / "dist" / "golf_decode.py").read_bytes()
    assert report["decoder_bytes"] == len(code)
    assert (folder / "dist" / "model.golf").read_bytes() == blobs["rd"]
    load, _ = loader(code)
    assert digest(load(folder / "dist" / "model.golf")) == digest(loads(blobs["rd"]).weights())
    again = inside("export", "x.golf", "--out", "dist")
    assert again.returncode == 2
    assert "--force" in again.stderr
    small = inside("export", "x.golf", "--out", "dist", "--force", "--minify", "--json").report
    assert small["decoder_bytes"] < 0.3 * len(code)
    shown = inside("export", "x.golf", "--out", "other", "-q").stdout
    assert "numpy" in shown
    alone = subprocess.run(
        [sys.executable, "-I", "golf_decode.py", "model.golf"],
        cwd=folder / "other", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(alone.stdout.splitlines()) == report["tensors"]


def test_the_command_refuses_what_is_no_artifact(inside, folder):
    (folder / "x.pt").write_bytes(b"x")
    for name, says in (("x.pt", "not a .golf"), ("none.golf", "there is no file")):
        run = inside("export", name)
        assert run.returncode == 2
        assert says in run.stderr
    assert UsageError.exit_code == 2

"""The stand-alone decoder: golfpack's bits or one error, with numpy and Python's own library alone."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed as build

from golfpack.errors import CorruptError, UsageError
from golfpack.export.decoder import packed, readable, uses
from golfpack.packer.format.codecs import Lzma
from golfpack.packer.format.codestreams import ByteStream, RansCodes
from golfpack.packer.format.container import HEADER, VERSIONS, divide
from golfpack.packer.format.loader import loads
from golfpack.packer.format.steps import f16_steps, log_steps
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import LowRank, QTensor
from golfpack.packer.recipe import load_recipe, recipe_names

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = {p.name: p.read_bytes() for p in sorted((TESTS / "golden").glob("*.golf"))}
sys.path.append(str(TESTS / "packer" / "format"))

from artifact_sample import (  # noqa: E402
    CODINGS,
    HEAD,
    one_group,
    small_blob,
    small_parts,
    small_tensors,
    with_states,
)
from test_hostile import GROUP_LIES, LIES, assemble  # noqa: E402


def small_trellis() -> bytes:
    """The sample as recipe rd codes it: codes with states, side streams under LZMA."""
    tensors, shapes = small_tensors()
    for name in ("a.log", "i.rank 3"):
        t = tensors[name]
        assert isinstance(t, QTensor)
        tensors[name] = with_states(t)
    roles = dict.fromkeys(shapes, "vector")
    side = ByteStream(Lzma(6))
    manifest, streams = encode_tensors(tensors, shapes, roles, CODINGS["rans"], side)
    return assemble(HEAD | manifest, streams)


def small_of(name: str) -> bytes:
    """One tensor of the sample, or one that is wider than a group of its correction, under rans."""
    tensors, _ = small_tensors()
    rng = np.random.default_rng(0)
    codes = [rng.integers(-9, 9, shape).astype(np.int32) for shape in ((2, 4), (2, 80), (4, 80))]
    a = QTensor(codes[0], f16_steps(np.ones(2)))
    b = QTensor(codes[1], f16_steps(np.ones((2, 2)), 64))
    tensors["wide f16"] = QTensor(codes[2], f16_steps(np.ones(4)), LowRank(a, b))
    tensors["wide log"] = QTensor(codes[2], log_steps(np.arange(1.0, 5), None), LowRank(a, b))
    t = tensors[name]
    held = t.codes if isinstance(t, QTensor) else t.values
    groups = one_group({name: t}, RansCodes()) if isinstance(t, QTensor) else []
    side = ByteStream(Lzma(6))
    manifest, streams = encode_tensors({name: t}, {name: held.shape}, {name: "head"}, groups, side)
    return assemble(HEAD | manifest, streams)


SMALL = "sample trellis"
RD = "v4-trellis.golf"  # what recipe rd writes; its decoder reads SMALL, too
BLOBS = {f"sample {coding}": small_blob(coding) for coding in CODINGS} | GOLDEN
BLOBS[SMALL] = small_trellis()
# What packed decoders must not leave out.
KINDS = {
    "f16 alone": small_of("b.f16"),
    "raw alone": small_of("f.bf16"),
    "no rows": small_of("h.empty"),
    "a correction of f16": small_of("wide f16"),
    "a correction of logs": small_of("wide log"),
}
BLOBS |= KINDS
# The packed form takes longer to make: it is made for what numpy alone reads. Codes with states take
# numpy seconds where columns are few, as in the golden files.
OLD = (
    "sample brotli", "v1-bytes.golf", "v1-streams.golf", "v2-rans.golf", "v2-trellis.golf",
    "v3-trellis.golf",
)  # fmt: skip
MADE = [(name, "readable") for name in BLOBS if name not in (*KINDS, *OLD)]
MADE += [(name, "packed") for name in (SMALL, "a correction of logs")]
MADE_SLOWLY = [(name, "readable") for name in OLD]
MADE_SLOWLY += [(name, "packed") for name in (RD, "v2-rans.golf", "sample bytes", *KINDS)]
FORMS = ["readable", "packed"]
PACKAGES = ["brotli", "_brotli", "zstandard", "_cffi_backend", "cffi"]
TIES = {"head.weight": "a.log", "head.bias": "no such"}  # of the decoder of RD
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


def decoder(blob: bytes, form: str, ties: dict[str, str] | None = None) -> bytes:
    """The decoder of an artifact, in one of the forms."""
    make = {"readable": lambda *told: readable(*told).encode(), "packed": packed}[form]
    return make(loads(blob), ties or {})


@cache
def made(name: str, form: str) -> bytes:
    """The decoder of one of BLOBS, shared by all tests."""
    if name == SMALL and form == "readable":
        return made(RD, form)
    return decoder(BLOBS[name], form, TIES if name in (RD, SMALL) else None)


def weights(name: str, blob: bytes | None = None) -> dict[str, np.ndarray]:
    """What `made` has to find in its artifact, or in another in its place."""
    artifact = loads(BLOBS[name] if blob is None else blob)
    found = artifact.weights()
    tied = TIES.items() if name == SMALL and artifact.family == HEAD["family"] else ()
    return found | {alias: found[own] for alias, own in tied if own in found}


def loader(code: bytes) -> tuple[Load, type[Exception]]:
    """`load` of a decoder's code, and its error."""
    space: dict[str, Any] = {"__name__": "golf_decode"}
    exec(compile(code, "golf_decode.py", "exec"), space)
    return space["load"], space["DecodeError"]


def in_bare_python(pairs: list[tuple[Path, Path]], packages: list[str]) -> list[str]:
    command = [sys.executable, "-I", "-c", _BARE, json.dumps([[str(p) for p in x] for x in pairs])]
    run = subprocess.run([*command, json.dumps(packages)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def written(folder: Path, name: str, blob: bytes, form: str, code: bytes) -> tuple[Path, Path]:
    """A decoder and its artifact as files."""
    paths = folder / f"{name}.{form}.py", folder / f"{name}.golf"
    paths[0].write_bytes(code)
    paths[1].write_bytes(blob)
    return paths


@pytest.mark.parametrize(
    ("which", "by_numpy"), [(MADE, 4), pytest.param(MADE_SLOWLY, 10, marks=pytest.mark.slow)]
)
def test_every_artifact_decodes_alike_without_golfpack(which, by_numpy, tmp_path):
    pairs = [written(tmp_path, n, BLOBS[n], form, made(n, form)) for n, form in which]
    expected = [digest(weights(name)) for name, _ in which]
    # What a decoder says it can do without, it does without.
    alone = [not uses(loads(BLOBS[name])).packages for name, _ in which]
    assert sum(alone) == by_numpy
    for packages, some in (([], alone), (PACKAGES, [not a for a in alone])):
        assert in_bare_python(list(compress(pairs, some)), packages) == [*compress(expected, some)]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_artifact_of_every_recipe_decodes_alike(form, make_state, tmp_path):
    pairs: list[tuple[Path, Path]] = []
    expected: list[str] = []
    for name in recipe_names():
        blob = build(load_recipe(name), make_state(34_000)).blob
        assert blob is not None
        pairs.append(written(tmp_path, name, blob, form, decoder(blob, form)))
        expected.append(digest(loads(blob).weights()))
    assert in_bare_python(pairs, PACKAGES) == expected


@pytest.mark.parametrize("name", sorted(BLOBS.keys() - KINDS))
def test_the_file_says_what_it_needs(name):
    packages = uses(loads(BLOBS[name])).packages
    told = str(ast.get_docstring(ast.parse(made(name, "readable"))))
    for package in ("brotli", "zstandard"):
        assert bool(re.search(rf"\b{package}\b", told)) == (package in packages)
    assert ("`rd`" in told) == bool(packages)
    assert name != RD or packages == []


def test_what_is_not_used_is_left_out():
    rd = made(RD, "readable").decode()
    unused = ("class Zlib", "class Shuffle", "_decode_bytes", "def encode", "brotli", "torch")
    for gone in (*unused, "import numba", "find_spec"):
        assert gone not in rd
    assert "def decode_run" in rd
    assert "def decode_run" not in made("v1-bytes.golf", "readable").decode()
    for old in ("_byte_steps", "_old_log", "_spread_sides", "_old_header"):
        assert old not in rd
    assert "read_vectors" not in made("v3-trellis.golf", "readable").decode()


@pytest.mark.parametrize("form", FORMS)
def test_a_tied_tensor_has_all_its_names(form, tmp_path):
    path = tmp_path / "x.golf"
    path.write_bytes(BLOBS[SMALL])
    load, _ = loader(made(SMALL, form))
    found = load(path)
    assert list(found) == [*loads(BLOBS[SMALL]).tensors, "head.weight"]
    assert found["head.weight"] is found["a.log"]


@pytest.mark.parametrize(
    ("made_for", "form", "given"),
    [
        (RD, "readable", "sample bytes"),
        (RD, "packed", "sample bytes"),
        ("sample bytes", "readable", "sample groups"),
    ],
)
def test_another_codec_is_refused(made_for, form, given, tmp_path):
    path = tmp_path / "x.golf"
    path.write_bytes(BLOBS[given])
    load, error = loader(made(made_for, form))
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


def expected_of(name: str, blob: bytes) -> str | None:
    try:
        return digest(weights(name, blob))
    except CorruptError:
        return None


def damage(name: str, form: str, count: int, path: Path) -> dict[str, int]:
    """Decode mutated files, half of them sealed again; counts what became of them.

    Where digests were made to match, golfpack's loader says what the file holds. A packed decoder is for
    one file: it knows any other from it.
    """
    blob = BLOBS[name]
    load, error = loader(made(name, form))
    whole = expected_of(name, blob)
    seen = dict.fromkeys(("refused", "whole", "other"), 0)
    rng = np.random.default_rng(len(blob))
    for k in range(count):
        seal = k % 2 == 1
        bad = mutated(blob, rng, seal)
        path.write_bytes(bad)
        found, expected = outcome(load, error, path), expected_of(name, bad)
        if form == "packed":
            expected = whole if bad == blob else None
        assert found == expected, (k, found, expected)
        assert seal or found in (None, whole)
        seen["refused" if found is None else "whole" if found == whole else "other"] += 1
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_end_in_one_error(form, tmp_path):
    assert damage(SMALL, form, 60, tmp_path / "x.golf")["refused"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BLOBS)
def test_a_thousand_damaged_files_end_in_one_error(name, form, tmp_path):
    assert damage(name, form, 1000, tmp_path / "x.golf")["refused"] > 500


@pytest.mark.parametrize("coding", ["bytes", "groups"])
def test_lies_in_the_manifest_are_refused(coding, tmp_path):
    load, error = loader(made(f"sample {coding}", "readable"))
    path = tmp_path / "x.golf"
    accepted: list[str] = []
    for lie, tell in (LIES if coding == "bytes" else GROUP_LIES).items():
        manifest, streams = small_parts(coding)
        tell(manifest)
        path.write_bytes(assemble(manifest, streams))
        if outcome(load, error, path) is not None:
            accepted.append(lie)
    assert accepted == []


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_the_command_writes_both_files(inside, folder):
    (folder / "x.golf").write_bytes(BLOBS[SMALL])
    assert "numpy" in inside("export", "x.golf", "--out", "dist", "-q").stdout
    code = (folder / "dist" / "golf_decode.py").read_bytes()
    assert (folder / "dist" / "model.golf").read_bytes() == BLOBS[SMALL]
    alone = subprocess.run(
        [sys.executable, "-I", "golf_decode.py", "model.golf"],
        cwd=folder / "dist", capture_output=True, text=True, check=True,
    )  # fmt: skip
    again = inside("export", "x.golf", "--out", "dist")
    assert again.returncode == 2
    assert "--force" in again.stderr
    report = inside("export", "x.golf", "--out", "dist", "--force", "--minify", "--json").report
    small = (folder / "dist" / "golf_decode.py").read_bytes()
    assert report["packages"] == []
    assert report["decoder_bytes"] == len(small) < 0.3 * len(code)
    assert report["tensors"] == len(alone.stdout.splitlines()) == len(loads(BLOBS[SMALL]).tensors)


def test_the_command_refuses_what_is_no_artifact(inside, folder):
    (folder / "x.pt").write_bytes(b"x")
    for name, says in (("x.pt", "not a .golf"), ("none.golf", "there is no file")):
        run = inside("export", name)
        assert run.returncode == 2
        assert says in run.stderr
    assert UsageError.exit_code == 2

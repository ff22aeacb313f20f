"""The file format: what goes in comes out, damage is one CorruptError, old files decode for ever."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_sample import (
    BYTES,
    CODINGS,
    HEAD,
    SIDE,
    one_group,
    small_blob,
    small_parts,
    small_tensors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.format.codecs import make_codec
from golfpack.packer.format.codestreams import RansCodes
from golfpack.packer.format.container import MAGIC, assemble, parse
from golfpack.packer.format.loader import is_artifact, load, loads
from golfpack.packer.format.steps import f16_steps
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import QTensor

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.mark.parametrize("coding", CODINGS)
def test_every_kind_of_tensor_comes_back_bit_for_bit(coding):
    tensors, shapes = small_tensors()
    artifact = loads(small_blob(coding))
    assert list(artifact.tensors) == list(tensors)
    assert (artifact.family, artifact.config) == ("golf", HEAD["config"])
    for name, w in artifact.weights().items():
        assert w.shape == shapes[name]
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w, tensors[name].dequantize().reshape(shapes[name]))
    assert artifact.container.overhead + sum(map(len, artifact.container.streams.values())) == len(
        small_blob(coding)
    )


def test_equal_content_gives_equal_bytes_whatever_the_order_of_keys():
    manifest, streams = small_parts()

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: turned(v) for k, v in reversed(list(value.items()))}
        return [turned(v) for v in value] if isinstance(value, list) else value

    assert list(turned(manifest)) != list(manifest)
    assert assemble(turned(manifest), streams) == assemble(manifest, streams) == small_blob()


@pytest.mark.parametrize("coding", ["bytes", "rans", "groups"])
def test_every_truncation_is_corrupt(coding):
    blob = small_blob(coding)
    for n in range(len(blob)):
        with pytest.raises(CorruptError):
            loads(blob[:n])
    for tail in (b"\0", blob):
        with pytest.raises(CorruptError):
            loads(blob + tail)


@pytest.mark.parametrize("coding", ["bytes", "rans", "groups"])
def test_every_flipped_byte_is_corrupt(coding):
    blob = small_blob(coding)
    for at, mask in itertools.product(range(len(blob)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(blob)
        damaged[at] ^= mask
        with pytest.raises(CorruptError) as e:
            loads(bytes(damaged))
        assert e.value.message


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_noise_is_corrupt(noise, with_magic):
    with pytest.raises(CorruptError):
        loads((MAGIC + b"\1\0\0\0" if with_magic else b"") + noise)


def test_messages_say_what_is_wrong(tmp_path):
    blob = small_blob()
    with pytest.raises(CorruptError, match=r"has 1,?\d* bytes|truncated"):
        parse(blob[:-17])
    with pytest.raises(CorruptError, match="appended"):
        parse(blob + b"x")
    with pytest.raises(CorruptError, match="version 5"):
        parse(blob[:4] + b"\5" + blob[5:])
    raw = small_parts()[1]["raw"]
    with pytest.raises(CorruptError, match="stream 'raw'"):
        parse(blob.replace(raw, bytes(len(raw))))
    path = tmp_path / "x.golf"
    path.write_bytes(blob)
    assert is_artifact(path)
    assert not is_artifact(tmp_path / "none")
    assert load(path).container.sha256 == hashlib.sha256(blob).hexdigest()
    for missing, says in ((tmp_path / "none.golf", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=says):
            load(missing)


# --- golden files ----------------------------------------------------------------------------------

# Written once and never again: (sha256 of the file, sha256 of its weights).
GOLDENS = {
    "v1-bytes.golf": (
        "92fd72054953d834f5f4d803178126be0f97a18732efd89a795bd41cadc060a3",
        "0c3c1ad058ef1d49abbb872fcc1cb4074356887760a8018e9d32a4f87b3b8258",
    ),
    # Recipe rd on the tests' tiny model, 12,000 bytes: rANS codes, log steps of rows and columns.
    "v1-rans.golf": (
        "414ccc8d98e89e08005f9fea77b8efbb3c943d9b5484eb4676fa594610d94f76",
        "231714022ceae51bab19573bc29042019b7cc88dece9d7cc1ca6077409a5cdce",
    ),
    # The sample under the coding "groups": group and column steps, a correction, sorted rows.
    "v1-streams.golf": (
        "0957e89b7ce72a7c041c8594e7cf11d79e2bb255ad91fa10ff2398da68fd188f",
        "91d6bbd775d27080a20000742de26bb8a698a9cf03ff8fcc6a9d4ab1ae31ec77",
    ),
    # Recipe rd on the tests' tiny model, 12,000 bytes, version 2 of the format.
    "v2-rans.golf": (
        "37d8a29e4bdbba6add0d478814b5e284fbfb4fcda182e7210cb2ed44a27273c2",
        "64bd8edfc5993115431dff8dec3529d1b69278f4de459f428ba4fc2ab3e8a266",
    ),
    # The same with codes of eight states.
    "v2-trellis.golf": (
        "57545df0d5b48f3a4e8d1433436919695e17c5ef019994db8c241df810b72eda",
        "588a87f2c51fc4eaaff70176d7b3d3ecb034b19231e1cf894a2a15383ef636b0",
    ),
    # The same of version 3: in every matrix some of them are fine.
    "v3-trellis.golf": (
        "5b28e055f5a33dd0944d7b486874db8c45f839742a6236f3c18da15e38f3d64a",
        "26dc0804d0d3224ae0e897e6bfbdd04764d10d7869c97fa24dcb7907c8facabc",
    ),
    # The same of version 4: steps and classes are told from each other.
    "v4-trellis.golf": (
        "563de795cf9adeee2d16038b60608570e2f59cbb86147c488f58f6fb8dd7e582",
        "4326d7a44e51fcd20cf96a41dd9d6e467c914743d42ca5f476367d5d644914a5",
    ),
}


def weights_digest(weights: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, w in weights.items():
        digest.update(json.dumps([name, list(w.shape)]).encode())
        digest.update(w.astype("<f4").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_files_decode_for_ever(name):
    artifact = load(GOLDEN / name)
    assert artifact.container.sha256 == GOLDENS[name][0]
    assert weights_digest(artifact.weights()) == GOLDENS[name][1]


def test_every_golden_file_is_listed():
    assert {p.name for p in GOLDEN.glob("*.golf")} == set(GOLDENS)


@pytest.fixture(params=["flush denormals", "float64 by default", "three threads"])
def float_environment(request):
    """Other settings of torch's than the usual, put back afterwards."""
    before = torch.get_default_dtype(), torch.get_num_threads()
    match request.param:
        case "flush denormals":
            if not torch.set_flush_denormal(True):
                pytest.skip("this processor cannot flush denormals")
        case "float64 by default":
            torch.set_default_dtype(torch.float64)
        case "three threads":
            torch.set_num_threads(3)
    yield
    torch.set_flush_denormal(False)
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("float_environment")
@pytest.mark.parametrize("name", GOLDENS)
def test_golden_files_decode_alike_in_any_float_environment(name):
    assert weights_digest(load(GOLDEN / name).weights()) == GOLDENS[name][1]


@pytest.mark.usefixtures("float_environment")
@pytest.mark.parametrize("stream", [BYTES, RansCodes()])
def test_every_kind_of_tensor_decodes_alike_in_any_float_environment(stream):
    tensors, shapes = small_tensors()
    # The smallest float16 step is a denormal; as a float32 it is not.
    tensors["z.smallest step"] = QTensor(np.ones((1, 3), np.int32), f16_steps(np.array([0.0])))
    shapes["z.smallest step"] = (1, 3)
    roles = dict.fromkeys(shapes, "vector")
    manifest, streams = encode_tensors(tensors, shapes, roles, one_group(tensors, stream), SIDE)
    weights = loads(assemble(HEAD | manifest, streams)).weights()
    assert weights_digest(weights) == ANY_ENVIRONMENT


# sha256 of the weights above, from a processor that keeps denormals.
ANY_ENVIRONMENT = "ed6406f608dd36301473f6cffe1f8b1a816e25a26fec8c1b1248eb9e3dd65f9b"


_BARE = """
import sys
for name in ("torch", "scipy", "numba", "typer", "rich", "safetensors", "sentencepiece"):
    sys.modules[name] = None  # an import of it now raises ImportError
from golfpack.packer.format.loader import load
for path in sys.argv[1:]:
    weights = load(path).weights()
    print(len(weights), sum(w.size for w in weights.values()))
"""


# Codes with states take numpy seconds where columns are few, as in these files.
SLOWLY_BARE = ("v2-trellis.golf", "v3-trellis.golf")


@pytest.mark.parametrize(
    "golden",
    [
        [n for n in GOLDENS if n not in SLOWLY_BARE],
        pytest.param(SLOWLY_BARE, marks=pytest.mark.slow),
    ],
    ids=["quick", "slow"],
)
def test_the_loader_needs_numpy_and_the_codecs_only(golden, tmp_path):
    for coding in CODINGS:
        (tmp_path / f"{coding}.golf").write_bytes(small_blob(coding))
    paths = [*(GOLDEN / name for name in golden), *tmp_path.glob("*.golf")]
    run = subprocess.run(
        [sys.executable, "-c", _BARE, *map(str, paths)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(paths)


def test_what_rd_writes_is_read_with_numpy_alone():
    bare = _BARE.replace('"torch",', '"torch", "brotli", "zstandard",')
    assert bare != _BARE
    command = [sys.executable, "-c", bare]
    run = subprocess.run([*command, str(GOLDEN / "v2-rans.golf")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[1] == str(
        sum(w.size for w in load(GOLDEN / "v2-rans.golf").weights().values())
    )
    other = subprocess.run([*command, str(GOLDEN / "v1-rans.golf")], capture_output=True, text=True)
    assert "brotli" in other.stderr


def test_make_codec_is_what_the_manifest_is_read_with():
    manifest, _ = small_parts()
    assert make_codec(json.loads(json.dumps(manifest["codes"]["codec"]))) == BYTES.codec

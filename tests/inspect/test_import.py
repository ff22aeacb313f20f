"""`golfpack import`: what goes in comes out once, in its own float type, readable again."""

import io
import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from golfpack.errors import UsageError
from golfpack.inspect.importing import import_checkpoint
from golfpack.models.checkpoint import load_checkpoint


def test_a_known_family_keeps_its_config_and_float_types(tiny, tiny_path, tmp_path):
    state = torch.load(tiny_path, weights_only=True)
    state["tok_emb.weight"] = state["tok_emb.weight"].bfloat16()
    torch.save(
        {"model": {f"module.{n}": t for n, t in state.items()}, "step": 3}, tmp_path / "a.pt"
    )
    out = tmp_path / "ckpt.safetensors"
    report = import_checkpoint(tmp_path / "a.pt", out, ("model.softcap=15", "model.seq_len=64"))
    assert (report.family, report.parameters) == ("golf", tiny.spec.numel)
    back = safetensors.torch.load_file(out)
    assert all(torch.equal(back[n], t) and back[n].dtype == t.dtype for n, t in state.items())
    again = load_checkpoint(out)
    assert again.config == {**tiny.config, "softcap": 15.0}
    assert again.assumed == {}
    with safetensors.safe_open(out, "pt") as file:
        origin = json.loads(file.metadata()["golfpack"])
    assert origin == {"family": "golf", "sha256": report.source_sha256, "aliases": {}}


def test_repeats_without_a_family_are_kept_once_and_named(tmp_path):
    w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    state = {
        "net.a": w, "net.b": w, "net.c": w.clone(), "net.d": w.T.contiguous().view(6, 4),
        "one": torch.ones(6, 4), "two": torch.ones(6, 4), "v": w[0], "u": w[0], "f": w.double(),
    }  # fmt: skip
    torch.save(state, tmp_path / "x.pt")
    report = import_checkpoint(tmp_path / "x.pt", tmp_path / "y.safetensors")
    assert report.aliases == {"net.a": "f", "net.b": "f", "net.c": "f"}
    assert len([n for n in report.notes if "is kept once" in n]) == 3
    assert any("1 float64 tensors (f" in n for n in report.notes)
    back = safetensors.torch.load_file(tmp_path / "y.safetensors")
    assert set(back) == {"net.d", "one", "two", "v", "u", "f"}
    assert back["f"].dtype == torch.float32
    with safetensors.safe_open(tmp_path / "y.safetensors", "pt") as file:
        assert json.loads(file.metadata()["golfpack"])["aliases"] == report.aliases


def test_stories_become_transformers_names(shared, tmp_path):
    source = shared / "checkpoints" / "stories260K" / "stories260K.bin"
    out = tmp_path / "stories.safetensors"
    report = import_checkpoint(source, out)
    assert report.family == "llama"
    assert any("Meta's names" in n for n in report.notes)
    one, two = load_checkpoint(source), load_checkpoint(out)
    assert (two.config, two.notes, two.assumed) == (one.config, (), {})
    for name, weight in one.weights.items():
        np.testing.assert_array_equal(weight, two.weights[name])


class Bomb:
    """What a hostile file would have torch.load run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def broken(tiny_path, tmp_path):
    state = torch.load(tiny_path, weights_only=True)
    buffer = io.BytesIO()
    torch.save({**state, "evil": Bomb(tmp_path / "owned")}, buffer)
    name = "blocks.0.mlp.fc.weight"
    return {
        "pickled code": (buffer.getvalue(), "it was not run"),
        "nan": ({**state, name: state[name] * torch.nan}, "not finite"),
        "inf": ({**state, name: state[name] / 0}, "not finite"),
        "missing": ({n: t for n, t in state.items() if n != name}, name),
        "misshapen": ({**state, name: state[name][:, :-1]}, name),
        "extra": ({**state, "blocks.0.mlp.gate.weight": state[name]}, "blocks.0.mlp.gate.weight"),
        "integers": ({**state, name: state[name].int()}, "torch.int32"),
        "magic": (b"GGUF" + bytes(100), "of an unknown format"),
        "artifact": (b"GOLF" + bytes(100), "is an artifact"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "pickled code",
        "nan",
        "inf",
        "missing",
        "misshapen",
        "extra",
        "integers",
        "magic",
        "artifact",
    ],
)
def test_broken_and_hostile_inputs_run_and_write_nothing(tiny_path, tmp_path, kind):
    data, says = broken(tiny_path, tmp_path)[kind]
    path = tmp_path / "in.pt"
    path.write_bytes(data) if isinstance(data, bytes) else torch.save(data, path)
    with pytest.raises(UsageError) as caught:
        import_checkpoint(path, tmp_path / "out.safetensors")
    assert says in caught.value.message
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_files_are_replaced_only_when_asked(tiny_path, tmp_path):
    out = tmp_path / "x.safetensors"
    import_checkpoint(tiny_path, out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        import_checkpoint(tiny_path, out)
    import_checkpoint(tiny_path, out, force=True)
    assert out.read_bytes() == before
    with pytest.raises(UsageError, match="sets nothing here"):
        import_checkpoint(tiny_path, out, ("search.slack=1",), force=True)

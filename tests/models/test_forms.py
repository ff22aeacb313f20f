"""The forms in which checkpoints have their tensors: `restore` undoes `adapt`, and `tell` names it."""

import numpy as np
import pytest
import torch
from conftest import TINY

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import settle
from golfpack.models.files import parse

SHAPES = {
    "golf": TINY,
    "alph": {
        "vocab_size": 17, "num_layers": 2, "dim": 8, "num_heads": 2, "mlp_hidden": 12, "seq_len": 8,
    },
    "bottleneck": {
        "vocab_size": 17, "num_layers": 2, "dim": 16, "embed_dim": 16, "attn_dim": 8, "sem_dim": 0,
        "geo_dim": 0, "num_heads": 2, "num_kv_heads": 2, "mlp_hidden": 12, "tie_qk": True,
    },
    "llama": {
        "vocab_size": 17, "num_layers": 2, "dim": 12, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
        "mlp_hidden": 20, "tied": True,
    },
    # Square matrices: no shape tells whether one is transposed.
    "gpt2": {
        "vocab_size": 17, "num_layers": 2, "dim": 12, "num_heads": 3, "mlp_hidden": 12, "seq_len": 8,
    },
    "gpt_neox": {
        "vocab_size": 17, "num_layers": 2, "dim": 12, "num_heads": 3, "mlp_hidden": 12, "rotary_dims": 2,
        "tied": True,
    },
}  # fmt: skip
FORMS = {
    "golf": ["", "banks", "kv_bank qo_bank"],
    "alph": ["", "alph", "alph fused"],
    "bottleneck": ["", "keys"],
    "llama": ["", "meta", "meta head", "trunk", "head", "trunk head"],
    "gpt2": ["", "conv1d", "transformer.", "transformer. conv1d", "transformer. conv1d head"],
    "gpt_neox": ["", "trunk", "head", "lm_head head"],
}
CASES = [(name, form) for name, forms in FORMS.items() for form in forms]


def drawn(family, config):
    rng = np.random.default_rng(0)
    tensors = family.spec(config).tensors
    return {t.name: torch.from_numpy(rng.standard_normal(t.shape).astype("f4")) for t in tensors}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_restore_undoes_adapt(name, form):
    family = FAMILIES[name]
    config, _ = settle(family.config_type, SHAPES[name], {})
    state = drawn(family, config)
    stored = family.forms.restore(state, config, form)
    assert set(family.forms.tell(stored).split()) == set(form.split())
    adapted, _ = family.adapt(stored, config)
    assert adapted.keys() == state.keys()
    for tensor, value in state.items():
        assert torch.equal(adapted[tensor], value)
    with pytest.raises(UsageError, match="unknown form 'sideways'"):
        family.forms.restore(state, config, "sideways")


def test_every_family_that_renames_or_regroups_has_forms():
    assert {n for n, f in FAMILIES.items() if f.adapt is not None and f.forms is None} == {"user"}
    assert {n for n, f in FAMILIES.items() if f.forms is not None} == set(FORMS)


@pytest.mark.parametrize("name", ["improved", "exp101pc", "rec0409"])
def test_the_banks_of_records_come_back_whole(shared, name):
    path = shared / "checkpoints" / "records_tiny" / f"{name}.pt"
    golf, raw = FAMILIES["golf"], parse(path.read_bytes(), path).tensors
    form = golf.forms.tell(raw)
    assert form == ("banks" if "qo_bank" in raw else "")
    adapted, _ = golf.adapt(raw, {})
    back = golf.forms.restore(adapted, {}, form)
    assert back.keys() == raw.keys()
    for tensor, value in raw.items():
        assert torch.equal(back[tensor], value)

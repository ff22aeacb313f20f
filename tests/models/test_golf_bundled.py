"""What is known of a network leaves the network: every option of the golf family, bundled and run."""

import pytest
import torch
from golf_reference import TINY
from test_golf_features import FEATURES, RECORD

from golfpack.export.bundle import bundle
from golfpack.export.minify import minify
from golfpack.export.modules import Known
from golfpack.export.quiet import quiet
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.family import GOLF
from golfpack.submission.known import known_values

ENTRIES = {"Golf": "golfpack.models.golf.net:Golf"}


def network(config, small=False):
    """The class Golf of a script for this config."""
    values = known_values(GolfConfig(**config), "", {})
    source = bundle(ENTRIES, known=Known(values), annotations=False)
    if small:
        # A script's last lines use what is in it; what nothing uses goes.
        source = minify(quiet(f"{source}\n{', '.join(ENTRIES)}\n"), keep=ENTRIES)
    assert "GolfConfig" not in source
    space = {"__name__": "script"}
    exec(source, space)
    return space["Golf"]


def assert_same(config, made):
    torch_rng = torch.Generator().manual_seed(0)
    theirs = GOLF.build(config)
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=torch_rng) * 0.5
    with torch.device("meta"):
        ours = made(None).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    tokens = torch.randint(0, config["vocab_size"], (2, 13), generator=torch_rng)
    with torch.no_grad():
        assert torch.equal(ours(tokens), theirs(tokens))


@pytest.mark.parametrize("name", FEATURES)
def test_a_network_without_what_its_options_leave_out_gives_the_same_logits(name):
    config = GOLF.spec({**TINY, **FEATURES[name]}).config
    assert_same(config, network(config))


@pytest.mark.parametrize("options", [{}, RECORD], ids=["baseline", "record"])
def test_short_names_change_nothing(options):
    config = GOLF.spec({**TINY, **options}).config
    assert_same(config, network(config, small=True))


def test_the_baseline_has_nothing_of_the_records():
    config = GOLF.spec(TINY).config
    source = bundle(ENTRIES, known=Known(known_values(GolfConfig(**config), "", {})))
    for of_records in ("Engram", "BigramHash", "lambdas", "smear", "attn_gate", "cache.extend"):
        assert of_records not in source

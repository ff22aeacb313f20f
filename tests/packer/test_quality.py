"""The search for a quality: never above the target KL, hardly below it, or an honest refusal."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, log2, sin

import pytest
from conftest import asked, packed

from golfpack.build.run import build
from golfpack.errors import BudgetError
from golfpack.eval.divergence import mean_kl
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Sense
from golfpack.packer.recipe import load_recipe
from golfpack.packer.search import Search, fit_kl
from golfpack.packer.state import Pass, run_passes


@pytest.fixture
def fitted(make_state, tiny, tiny_tokens):
    """fitted(target, recipe) -> (finished state, its measured KL), of the tiny model for real."""
    shapes = {t.name: t.shape for t in tiny.spec.tensors}
    reference = tiny.module()

    def measure(tensors):
        weights = {n: t.dequantize().reshape(shapes[n]) for n, t in tensors.items()}
        other = tiny.module(weights)
        return mean_kl(reference, other, tiny_tokens.sequences[:4], 1)

    def fit(target, recipe="rd", settings=()):
        state = make_state(None, measure=measure)
        done = packed(load_recipe(recipe, settings), state, target=target)
        return done, measure(done.tensors)

    return fit


def test_a_target_is_kept(fitted):
    sizes = []
    for target in (0.3, 0.05, 0.01):
        done, kl = fitted(target)
        # So small a model's KL scatters by tenths from one dial to the next.
        assert 0.6 * target <= kl <= target
        assert len(done.trace) <= 12
        assert len(done.blob) in [r.artifact_bytes for r in done.trace]
        sizes.append(len(done.blob))
    assert sizes == sorted(sizes)


@pytest.mark.slow
def test_a_target_is_used_up_on_a_real_model(shared):
    options = asked(
        shared / "checkpoints/golf_0.48M/final_model.pt", target_kl=0.01, dry_run=True,
        cache=False, calib=str(shared / "data/shards/fineweb10B_sp1024_train_first1M.bin"),
        calib_tokens=4096,
    )  # fmt: skip
    report = build(options)
    assert report.budget_bytes is None
    assert report.headroom_bytes is None
    assert report.measured_kl is not None
    assert 0.0095 <= report.measured_kl <= 0.01


def test_a_classic_recipe_keeps_a_target_too(fitted):
    _, kl = fitted(0.5, "sdclip-brotli", ("encode.codec=zlib",))
    assert 0.5 * 0.5 < kl <= 0.5


def test_a_target_out_of_reach_is_refused(fitted):
    with pytest.raises(BudgetError, match="1e-07") as e:
        fitted(1e-7, "sdclip-brotli", ("encode.codec=store",))
    assert "rd" in str(e.value.hint)


@dataclass(frozen=True)
class Pretend(Pass):
    """Stands for a whole round: smaller files and a given KL as the dial rises."""

    name = "pretend"
    stage = "write"
    kl: Callable[[float], float] = lambda x: 0.0

    def run(self, state):
        x = log2(state.dial)
        return replace(
            state, blob=bytes(max(1, round(20_000 - 400 * x))), tensors={"kl": self.kl(x)}
        )


def pretending(make_state):
    """A state whose KL is what `Pretend` says."""
    state = make_state(None, measure=lambda t: t["kl"])
    return run_passes((Policy(({"scheme": "rd"},)), Sense()), state)


# The KL as a function of log2(dial), by theory fourfold per octave, and how close one can come.
KLS = {
    "as theory has it": (lambda x: 4.0**x, 0.98),
    "steeper": (lambda x: 8.0**x, 0.95),
    "flatter": (lambda x: 2.5**x, 0.95),
    "with a floor": (lambda x: 1e-4 + 4.0**x, 0.98),
    "stairs of 1/8 octave": (lambda x: 4.0 ** (floor(8 * x) / 8), 0.83),
    "scattered by a twentieth": (lambda x: 4.0**x * (1 + 0.05 * sin(1e4 * x)), 0.9),
}


@pytest.mark.parametrize("shape", KLS)
@pytest.mark.parametrize("target", [3e-4, 0.01, 0.7])
def test_the_search_comes_close_whatever_the_kl_does(make_state, shape, target):
    kl, share = KLS[shape]
    search = Search(floor_bpw=0.0)  # the pretended sizes have no floor
    done = fit_kl(search, (Pretend(kl=kl),), pretending(make_state), target)
    assert share * target <= done.tensors["kl"] <= target
    assert len(done.trace) <= search.max_rounds
    kept = [r for r in done.trace if kl(log2(r.dial)) <= target]
    assert done.blob is not None
    assert len(done.blob) == min(r.artifact_bytes for r in kept)


def test_a_model_that_loses_nothing_ends_the_search(make_state):
    done = fit_kl(Search(), (Pretend(),), pretending(make_state), 0.1)
    assert done.blob is not None
    assert len(done.blob) == min(r.artifact_bytes for r in done.trace)
    assert len(done.trace) <= 12

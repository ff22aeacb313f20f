"""Self-distillation: codes move where the network's KL falls, and the same way on any machine."""

import numpy as np
import pytest
import torch

from golfpack.build import distil as distil_module
from golfpack.build.adam import OUTLIER, usual_size
from golfpack.build.distil import FEW_TOKENS, LOOKS, distil, tokens_per_update
from golfpack.build.gradients import target_of
from golfpack.build.latents import HEADROOM, Latent, latent
from golfpack.errors import UsageError
from golfpack.eval.divergence import mean_kl, text_losses

STEP = 0.08


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """A high rate, for few updates."""
    monkeypatch.setattr(distil_module, "RATE", 0.03)
    monkeypatch.setattr(distil_module, "WALK", 1.0)


@pytest.fixture
def teacher(tiny):
    return tiny.module()


def start(tiny, limit=None):
    """Latents of all matrices but the embedding, rounded to nearest on one coarse step."""
    found = {}
    for t in tiny.spec.tensors:
        if len(t.shape) == 2 and t.role != "embed":
            w = tiny.weights[t.name]
            codes, step = np.rint(w / STEP), np.full(t.shape, STEP)
            found[t.name] = latent(w, codes.astype(np.int32), step, limit, t.shape)
    return found


def student(tiny, latents):
    weights = {**tiny.weights, **{n: x.weight().numpy() for n, x in latents.items()}}
    return tiny.module(weights)


def trained(tiny, teacher, tokens, updates, threads=1, seed=0, device=None, labels=0.0):
    latents = start(tiny)
    order, rows = np.random.default_rng(seed), updates * FEW_TOKENS // tokens.sequences.shape[1]
    text = tokens.sequences[order.integers(len(tokens.sequences), size=rows)]
    return distil(
        teacher,
        student(tiny, latents),
        latents,
        text,
        threads=threads,
        device=device,
        labels=labels,
    )


def test_training_lowers_the_kl_on_tokens_it_has_not_seen(tiny, teacher, tiny_tokens):
    train, held_out = tiny_tokens.split(4)
    before = mean_kl(teacher, student(tiny, start(tiny)), held_out.sequences, 1)
    latents = trained(tiny, teacher, train, 25)
    after = mean_kl(teacher, student(tiny, latents), held_out.sequences, 1)
    assert after < 0.8 * before


def test_threads_change_nothing_and_the_seed_does(tiny, teacher, tiny_tokens):
    one, two, other = (
        trained(tiny, teacher, tiny_tokens, 2, threads, seed)
        for threads, seed in ((1, 0), (2, 0), (1, 1))
    )
    assert all(torch.equal(one[n].z, two[n].z) for n in one)
    assert any(not torch.equal(one[n].z, other[n].z) for n in one)


def test_whole_batches_on_a_device_are_the_same_but_for_rounding(tiny, teacher, tiny_tokens):
    alone, together = (trained(tiny, teacher, tiny_tokens, 1, device=d) for d in (None, "cpu"))
    for name, x in alone.items():
        torch.testing.assert_close(x.z, together[name].z, atol=1e-4, rtol=0)
        assert not torch.equal(x.z, start(tiny)[name].z)


def test_both_networks_are_left_as_they_were(tiny, teacher, tiny_tokens):
    latents = start(tiny)
    net = student(tiny, latents)
    before = [{n: p.clone() for n, p in m.named_parameters()} for m in (teacher, net)]
    distil(teacher, net, latents, tiny_tokens.sequences[:1], threads=1)
    for model, kept in zip((teacher, net), before, strict=True):
        assert not any(p.requires_grad for p in model.parameters())
        assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())


def test_a_latent_starts_beside_its_code_and_stays_within_the_limit():
    w, codes = np.array([[0.1, 0.9, -2.6]]), np.array([[1, 1, -2]])
    x = latent(w, codes, np.ones((1, 3)), 2, (3,))
    np.testing.assert_allclose(x.z, [[1 - HEADROOM, 0.9, -2 - HEADROOM]], rtol=1e-5)
    np.testing.assert_array_equal(x.weight(), [1.0, 1.0, -2.0])
    x.move(torch.tensor([[-5.0, 5.0, -5.0]]))
    np.testing.assert_array_equal(x.z, [[-2.0, 2.0, -2.0]])


def test_a_correction_is_part_of_the_weight_and_not_of_the_code():
    w, codes, offset = np.array([[1.5]]), np.array([[2]]), np.array([[0.5]])
    x = latent(w, codes, np.array([[0.5]]), None, (1, 1), offset)
    assert (float(x.z), float(x.weight())) == (2.0, 1.5)


def test_weights_stay_on_other_steps_up_to_rounding():
    """As training goes on from there, nothing but the grid may have changed."""
    w, codes, offset = np.array([[0.7, -1.3]]), np.array([[1, -2]]), np.array([[0.1, -0.1]])
    x = latent(w, codes, np.array([[0.6, 0.7]]), None, (1, 2))
    y = latent(w, codes, np.array([[0.25, 0.25]]), 8, (1, 2), offset)
    moved = x.onto(y)
    np.testing.assert_allclose(moved.z * y.step + y.offset, w, rtol=1e-5)
    assert (moved.step is y.step, moved.limit) == (True, 8)
    clipped = x.onto(latent(w, codes, np.array([[0.1, 0.1]]), 4, (1, 2)))
    np.testing.assert_array_equal(clipped.z, [[4.0, -4.0]])


def test_a_price_makes_codes_cheaper_and_is_asked_for_on_the_way(tiny, teacher, tiny_tokens):
    latents, rows = start(tiny), 24 * FEW_TOKENS // tiny_tokens.sequences.shape[1]
    text = np.resize(tiny_tokens.sequences, (rows, tiny_tokens.sequences.shape[1]))
    told: list[tuple[float, float | None]] = []

    def size(found):
        return sum(float((x.bit_slopes() * x.z.round().abs()).sum()) for x in found.values())

    def ends_with(units):
        told.clear()

        def price(now, behind, saved):
            assert now.keys() == latents.keys()
            told.append((behind, saved))
            return units

        return distil(teacher, student(tiny, latents), latents, text, threads=1, price=price)

    free, cheap, cheaper = ends_with(0.0), ends_with(2.0), ends_with(8.0)
    assert size(free) > size(cheap) > size(cheaper)
    behind, saved = zip(*told, strict=True)
    assert len(told) == 1 + len(LOOKS)
    assert behind[0] == 0
    assert saved[0] is None
    assert list(behind) == sorted(behind)
    assert behind[-1] < 1
    assert list(saved[1:]) == sorted(saved[1:], reverse=True)
    assert saved[-1] > 0
    unpriced = distil(teacher, student(tiny, latents), latents, text, threads=1)
    assert all(torch.equal(x.z, free[n].z) for n, x in unpriced.items())


def test_bits_rise_with_a_codes_size_and_less_where_codes_are_large():
    step = torch.ones(2, 3)
    small = Latent(torch.tensor([[0.2, 1.0, -1.0], [0.0, 0.0, 0.0]]), step, None, None, (2, 3))
    slopes = small.bit_slopes()
    # Of a mean m of geometric magnitudes one more costs log2(1 + 1 / m); a row of zeros ends somewhere.
    assert float(slopes[0, 1]) == pytest.approx(np.log2(1 + 1), rel=1e-6)
    assert float(slopes[1, 0]) == pytest.approx(np.log2(65), rel=1e-6)
    large = Latent(100 * small.z, step, None, None, (2, 3)).bit_slopes()
    assert 0 < float(large[0, 1]) < 0.1


def test_what_no_gradient_reaches_stays(tiny, teacher, tiny_tokens):
    latents = start(tiny)
    name = next(n for n in latents if n.endswith("mlp.proj.weight"))
    dead = {**tiny.weights, name.replace("mlp.proj", "mlp.fc"): 0 * tiny.weights[name].T}
    net = tiny.module(dead)
    only = {name: latents[name]}
    after = distil(net, net, only, tiny_tokens.sequences[:1], threads=1)
    assert torch.equal(after[name].z, latents[name].z)


def test_labels_lower_the_cross_entropy_of_the_text(tiny, teacher, tiny_tokens):
    """More than the float model's predictions do, which know nothing of it."""
    rows = tiny_tokens.sequences
    rises = []
    for labels in (0.0, 0.5):
        net = student(tiny, trained(tiny, teacher, tiny_tokens, 25, labels=labels))
        rises.append(text_losses(teacher, net, rows, 1)[:, 1].sum() / rows.size)
    assert rises[1] < rises[0] - 0.1
    assert rises[1] < 0


def test_the_target_is_a_mixture_and_the_last_position_has_no_label(tiny, teacher):
    tokens = torch.tensor([[5, 7, 7, 3]])
    p, wanted = target_of(teacher, tokens, 0.25)
    expected = 0.75 * p.exp()
    expected[0, [0, 1, 2], [7, 7, 3]] += 0.25
    expected[0, 3] = p[0, 3].exp()
    torch.testing.assert_close(wanted, expected)
    torch.testing.assert_close(wanted.sum(-1), torch.ones(1, 4))


def test_small_models_are_updated_more_often():
    assert tokens_per_update(10**6) < tokens_per_update(10**6 + 1)


def test_a_network_that_overflows_is_an_error(tiny, teacher, tiny_tokens):
    latents = start(tiny)
    name = next(iter(latents))
    nan = {**tiny.weights, name: np.full_like(tiny.weights[name], np.nan)}
    broken = tiny.module(nan)
    with pytest.raises(UsageError, match="the KL is nan after 0 updates"):
        distil(broken, student(tiny, latents), latents, tiny_tokens.sequences[:1], threads=1)


def test_a_row_of_zeros_does_not_set_the_pace_of_all_others():
    ordinary = [torch.tensor(4.0 * n, dtype=torch.float64) for n in (100, 300, 50)]
    sizes = [100, 300, 50]
    assert float(usual_size(ordinary, sizes)) == pytest.approx(2.0)
    wild = torch.tensor(1e20, dtype=torch.float64)
    found = float(usual_size([*ordinary, wild], [*sizes, 1000]))
    assert found == pytest.approx(2.0 * OUTLIER)
    still = [torch.zeros((), dtype=torch.float64)] * 4  # more of them than of those with gradients
    found = float(usual_size([*still, *ordinary], [1] * 4 + sizes))
    assert found == pytest.approx((4.0 * 450 / 454) ** 0.5)
    assert float(usual_size(still, [1] * 4)) == 0.0

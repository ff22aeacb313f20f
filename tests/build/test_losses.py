"""What a build loses, by text: means, standard errors, and the line that says so."""

import numpy as np
import pytest
import torch

from golfpack.build.losses import text_loss
from golfpack.commands.build import told_losses
from golfpack.eval.divergence import mean_kl, text_losses


def test_means_and_standard_errors_are_over_sequences():
    sums = np.array([[8.0, 3.0], [16.0, -3.0], [24.0, 9.0]])
    found = text_loss("own", sums, 4)
    assert (found.sequences, found.length) == (3, 4)
    assert (found.kl, found.ce_rise) == (4.0, 1.0)
    assert found.kl_error == pytest.approx(2 / 3**0.5)
    assert found.ce_rise_error == pytest.approx(2 / 3**0.5)
    one = text_loss("held out", sums[:1], 4)
    assert (one.kl, one.kl_error, one.ce_rise_error) == (2.0, 0.0, 0.0)


def test_losses_of_a_text_are_those_of_its_definition(tiny, tiny_tokens):
    rng = np.random.default_rng(0)
    near = {
        n: w + 0.02 * rng.standard_normal(w.shape).astype("f4") for n, w in tiny.weights.items()
    }
    models, rows = [tiny.module(), tiny.module(near)], tiny_tokens.sequences[:3]
    found = text_losses(*models, rows, threads=2)
    for row, (kl, rise) in zip(rows, found, strict=True):
        tokens = torch.from_numpy(row)[None]
        p, q = (m(tokens)[0].double().log_softmax(-1).numpy() for m in models)
        assert kl == pytest.approx(float((np.exp(p) * (p - q)).sum()), rel=1e-9)
        nll = [-x[np.arange(len(row) - 1), row[1:]].sum() for x in (p, q)]
        assert rise == pytest.approx(nll[1] - nll[0], rel=1e-9)
    assert mean_kl(*models, rows, 1) == pytest.approx(found[:, 0].sum() / rows.size, rel=1e-12)


def test_one_line_tells_the_cross_entropy_on_both_texts():
    sums = np.array([[8.0, 3.0], [16.0, -3.0]])
    held_out, own = text_loss("held out", sums, 4), text_loss("own", sums / 10, 4)
    assert told_losses([held_out]) == "cross entropy +0.00000 ± 1.00000 there"
    assert told_losses([held_out, own]) == (
        "cross entropy +0.00000 ± 1.00000 there, +0.00000 ± 0.10000 on text the model wrote, "
        "where the KL is 0.30000"
    )

"""The head's cross entropy, chunk by chunk, is that of all logits at once."""

import pytest
import torch
from torch.nn import functional as F

from golfpack.kernels.cross_entropy import head_cross_entropy
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.net import _cap


def sample(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((37, 16), generator=generator).to(dtype)
    weight = (3 * torch.randn((29, 16), generator=generator)).to(dtype)
    return hidden, weight, torch.randint(29, (37,), generator=generator)


@pytest.mark.parametrize("kind", ["tanh", "poly"])
@pytest.mark.parametrize("chunk", [1, 10, 37, 1000])
def test_values_and_gradients(kind, chunk):
    cfg = GolfConfig(29, 1, 16, 1, 1, 16, softcap=5.0, softcap_kind=kind)
    hidden, weight, targets = sample(torch.float64)

    def cap(z: torch.Tensor) -> torch.Tensor:
        return _cap(z, cfg)

    leaves = [x.clone().requires_grad_() for x in (hidden, weight, hidden, weight)]
    whole = F.cross_entropy(cap(leaves[0] @ leaves[1].T), targets, reduction="none")
    parts = head_cross_entropy(leaves[2], leaves[3], targets, cap=cap, chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for nll in (whole, parts):
        (nll * torch.arange(37)).sum().backward()
    torch.testing.assert_close(leaves[2].grad, leaves[0].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(leaves[3].grad, leaves[1].grad, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(head_cross_entropy(hidden, weight, targets, cap=cap, chunk=chunk), parts)


def test_bfloat16_heads_count_in_float32():
    hidden, weight, targets = sample(torch.bfloat16)
    nll = head_cross_entropy(hidden, weight, targets, chunk=10)
    assert nll.dtype == torch.float32
    logits = (hidden @ weight.T).float()
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="none"))


def test_no_tokens():
    hidden, weight, targets = sample(torch.float32)
    assert head_cross_entropy(hidden[:0], weight, targets[:0]).shape == (0,)

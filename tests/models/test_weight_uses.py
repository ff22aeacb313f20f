"""Every way of using a matrix is seen, or known not to be seen."""

import pytest
import torch
import torch.nn.functional as F

from golfpack.models.user.weight_uses import LinearUse, Parameters, Route, Watch

W = torch.nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
X, IDS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 5]])


@pytest.mark.parametrize(
    ("use", "kinds", "other"),
    [
        (lambda: F.linear(X, W), ["linear"], False),
        (lambda: F.linear(X, weight=W.to(X.dtype)), ["linear"], False),
        (lambda: X @ W.T, ["linear"], False),
        (lambda: torch.matmul(X, W.t()), ["linear"], False),
        (lambda: (F.embedding(IDS, W), F.linear(X, W)), ["embedding", "linear"], False),
        (lambda: W.shape[0] + W.numel(), [], False),
        (lambda: torch.einsum("bti,oi->bto", X, W), [], True),
        (lambda: (F.linear(X, W), W.square().sum()), ["linear"], True),
        (lambda: F.linear(X, W[:3]), [], True),
        (lambda: F.linear(X, W.double().float()), [], True),
        (lambda: X @ W.view(4, 6), [], True),
        (lambda: torch.cat([W, W]), [], True),
        (lambda: F.embedding(IDS, W, max_norm=1.0), [], True),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_uses_are_seen_however_they_are_written(use, kinds, other, grad):
    holder = torch.nn.Module()
    holder.register_parameter("w", W.requires_grad_(grad))
    with torch.no_grad(), Watch(Parameters(holder)) as watch:
        use()
    assert watch.kinds.get("w", []) == kinds
    assert ("w" in watch.other) is other


def test_modules_see_what_is_routed_through_them():
    holder, seen = torch.nn.Module(), []
    holder.register_parameter("w", W)
    uses = torch.nn.ModuleDict({"linear:w": LinearUse()})
    uses["linear:w"].register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    bias = torch.ones(6)
    with torch.no_grad(), Route(holder, uses):
        outs = [F.linear(X, W, bias), X @ W.T, F.linear(X, torch.ones(6, 4))]
    assert [x is X for x, _ in seen] == [True, True]
    for (_, got), out, expected in zip(seen, outs, (X @ W.T + 1, X @ W.T), strict=False):
        assert got is out
        torch.testing.assert_close(out, expected)

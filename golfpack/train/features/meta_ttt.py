"""Meta-TTT: the loss that test-time training would leave, as a part of what is minimised.

Every few steps the block matrices take one plain gradient step on the first half of each sequence; the
loss of the second half at the matrices found there is minimised too. First order (FOMAML, Finn et al.
2017): its gradient at those matrices counts as that of the matrices themselves. Source: seed 004's exp93
to exp101 (openai/parameter-golf, pull request 1501; its ablation exp105a: no more than noise).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.func import functional_call

from golfpack.spec import ModelSpec
from golfpack.train.config import TrainConfig
from golfpack.train.schedule import fall

# The rate's share of its peak below which exp101 leaves it out: there a model is to settle.
LOWEST_SHARE = 0.5

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def adapted_names(spec: ModelSpec, frozen: int) -> tuple[str, ...]:
    """The block matrices that take the inner step: those of all blocks but the first `frozen`."""
    return tuple(
        t.name
        for t in spec.tensors
        if t.block is not None and t.block >= frozen and t.role != "vector" and len(t.shape) == 2
    )


def is_meta_step(config: TrainConfig, step: int, used: float) -> bool:
    """Whether the step after `step` steps has the term, with `used` of the budget spent."""
    return (
        config.meta_weight > 0.0
        and step % config.meta_every == 0
        and fall(config, step, used) > LOWEST_SHARE
    )


def add_meta_gradient(
    model: nn.Module,
    names: Sequence[str],
    rows: torch.Tensor,
    inner: Loss,
    outer: Loss,
    rate: float,
    lowered: Callable[[], AbstractContextManager[object]],
) -> None:
    """Add the first-order gradient of the outer loss at adapted matrices to the parameters' gradients.

    Args:
        names: of the matrices that take the inner step.
        rows: (B, T + 1) tokens, T of 2 or more; the halves share the token between them, as the first
            one's last target and the second's first input.
        inner, outer: (logits, targets) -> loss of a half, (); what the outer one gives is added.
        rate: of the inner step.
        lowered: gives the context that forward passes are computed in.
    """
    half = (rows.shape[1] - 1) // 2
    first, second = rows[:, : half + 1], rows[:, half:]
    parameters = dict(model.named_parameters())
    matrices = {name: parameters[name] for name in names}
    with lowered():
        logits = model(first[:, :-1])
    loss = inner(logits, first[:, 1:])
    steps = torch.autograd.grad(loss, list(matrices.values()), allow_unused=True)
    fast = {
        name: (p.detach() if step is None else p.detach() - rate * step).requires_grad_()
        for (name, p), step in zip(matrices.items(), steps, strict=True)
    }
    with lowered():
        logits = functional_call(model, fast, (second[:, :-1],))
    outer(logits, second[:, 1:]).backward()
    for name, adapted in fast.items():
        if adapted.grad is not None:
            own = matrices[name]
            own.grad = adapted.grad if own.grad is None else own.grad.add_(adapted.grad)

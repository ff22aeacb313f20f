"""What a run's checkpoints hold for the program that their family comes from (`Training.system`).

Where that program saves with torch, `last.pt` and `best.pt` have its keys among ours: one file is read
by both loaders' rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.data.alph_training import alph_artifacts
from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.training import Snapshot, SystemForm
from golfpack.train.config import TrainConfig
from golfpack.train.run import Run, training_of, weights_of


@dataclass(frozen=True, eq=False)
class SystemFiles:
    """How a run tells its family's own system what it needs.

    Attributes:
        form: that system's; None: it has none.
        options: of the model.
        config: of the run; None where nothing is trained.
        aliases: further names of tied tensors -> those of the ModelSpec.
        told: keys for torch files beside model, step and best_val.
        tokenizer: of the tokens, or None.
    """

    form: SystemForm | None
    options: Mapping[str, Any]
    config: TrainConfig | None
    aliases: Mapping[str, str]
    told: Mapping[str, Any]
    tokenizer: Tokenizer | None = None

    @staticmethod
    def of(
        family: Family, options: Mapping[str, Any], config: TrainConfig, tokenizer: Tokenizer | None
    ) -> "SystemFiles":
        """Those of a run that is about to begin.

        Raises:
            UsageError: `system_every` asks for what this family, model or optimizer has not.
        """
        training = training_of(family)
        form, told = training.system, dict[str, Any]()
        if config.system_every is not None:
            _check(family.name, form, config)
        if form is not None:
            try:
                told = {"config": form.config(options, config.dropout)}
            except UsageError:
                # A model that the system has not: our own files have all its options beside them.
                if config.system_every is not None:
                    raise
        # ALPH's own checkpoints are no files of torch's.
        told = {} if form is not None and form.moments else told
        return SystemFiles(form, options, config, training.aliases(options), told, tokenizer)

    @property
    def pattern(self) -> str:
        """Of the names of `checkpoint`'s files."""
        return "step*.pt" if self.form is None else self.form.pattern

    def with_aliases(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights, tied ones under each of their names; they are stored once all the same."""
        return {**weights, **{name: weights[own] for name, own in self.aliases.items()}}

    def checkpoint(self, run: Run) -> tuple[str, bytes]:
        """Name and content of the system's own checkpoint of the run as it is now."""
        assert self.form is not None
        assert self.config is not None
        run.settle()
        moments = _moments(run.model, run.optimisers) if self.form.moments else None
        tokenizer = self.tokenizer
        return self.form.write(
            Snapshot(
                self.options, self.config.dropout, self.config.seed, run.step,
                weights_of(run.model), moments, run.step, run.best_val,
                alph_artifacts(tokenizer) if isinstance(tokenizer, AlphTokenizer) else None,
            )
        )  # fmt: skip


NO_SYSTEM = SystemFiles(None, {}, None, {}, {})


def _check(family: str, form: SystemForm | None, config: TrainConfig) -> None:
    if form is None:
        raise UsageError(
            f"the {family} family comes from no system with checkpoints of its own",
            "leave out train.system_every: last.pt, best.pt and final_model.pt are written anyway",
        )
    if form.moments and config.optimizer != "adamw":
        raise UsageError(
            f"the {family} family's own checkpoints hold AdamW's moments; this run has "
            f"{config.optimizer}",
            "set train.optimizer=adamw, or leave out train.system_every",
        )


def _moments(
    model: nn.Module, optimisers: list[Optimizer]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """AdamW's first and second moments of every parameter; zeros before the first step."""
    (adamw,) = (o for o in optimisers if isinstance(o, AdamW))
    found = {}
    for name, p in model.named_parameters():
        state = adamw.state.get(p) or {}
        zero = torch.zeros_like(p)
        found[name] = state.get("exp_avg", zero), state.get("exp_avg_sq", zero)
    return found

"""The settings of a training run."""

from dataclasses import dataclass

from golfpack.base.sizes import parse_size
from golfpack.errors import UsageError
from golfpack.models.device import check_compile_mode
from golfpack.train.ranges import check_ranges
from golfpack.train.schedule_text import read_lengths

# May differ between a run and its resumption: they do not change what is meant to be learnt.
FREE_ON_RESUME = frozenset({
    "val_every", "val_batches", "log_every", "save_every", "sample_every", "threads", "device",
    "compile_mode", "system_every", "analyse_every",
})  # fmt: skip
OPTIMIZERS = ("muon", "adamw", "lion")
SCHEDULES = ("trapezoid", "cosine", "constant")
ORDERS = ("epochs", "random")
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("auto", *DTYPES)
_CHOICES = {
    "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "order": ORDERS, "param_dtype": DTYPES,
    "precision": PRECISIONS,
}  # fmt: skip
# The second moment's memory of each optimiser, where `beta2` is not set.
BETA2 = {"muon": 0.95, "adamw": 0.95, "lion": 0.99}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The budget is either `steps` or `minutes`, whichever is given.

    Attributes:
        steps: optimiser steps; runs of equal settings are then bit-equal on one CPU thread.
        minutes: wall-clock minutes; the schedule follows the clock, so that warm-down completes.
        batch_tokens: tokens per step at `seq_len`, a multiple of it.
        seq_len: the block: tokens per sequence, and the model's context.
        seq_schedule: sequence lengths by step, as "256@0,512@500"; a step has as many sequences
            whatever their length. Empty: `seq_len` throughout.
        accumulate: equal parts of a batch, whose gradients add up to a step's. Processes of a
            distributed run share them, so that what is learnt does not depend on how many there are.
        order: epochs, in which each sequence comes once, or random, uniform starts anywhere.
        optimizer: muon (matrices inside blocks; Adam for the rest), adamw or lion.
        lr: peak rate of adamw and lion.
        matrix_lr: Muon's peak rate, for the matrices inside blocks.
        embed_lr: Adam's peak rate for the embedding, tied or not, beside Muon.
        head_lr: Adam's peak rate for an untied output head, beside Muon.
        scalar_lr: Adam's peak rate for vectors (gains, mixes, skip weights), beside Muon.
        beta1, beta2: of Adam, AdamW and Lion; beta2 is 0.95, Lion's 0.99, where it is not set.
        eps: Adam's and AdamW's.
        momentum: Muon's Nesterov momentum.
        momentum_start: Muon's momentum at step 0, or None for `momentum` throughout.
        momentum_steps: steps of the linear way from there to `momentum`.
        momentum_cycle: steps of a cosine's period in which momentum goes from `momentum_start` to
            `momentum` and back, again and again, in place of the linear way; None: no cycle.
        weight_decay: decoupled decay of Muon's matrices, or of what decays under adamw and lion: each
            step shrinks them by rate * decay.
        embed_decay, scalar_decay: the same for what Adam has beside Muon.
        schedule: trapezoid (rise, plateau, linear fall), cosine (rise, half a cosine) or constant.
        warmup_steps: steps of linear rise to the peak rates.
        warmup_from: share of the peak rates that the rise begins from.
        warmdown_fraction: last share of the budget over which a trapezoid falls.
        final_lr_share: share of the peak rates at which a trapezoid or cosine ends.
        grad_clip: bound on the global gradient norm, or None.
        dropout: rate, in the places that the family has.
        label_smoothing: share of the target's probability that all tokens share.
        ignore_id: a token, such as padding, that is no target; None: all are.
        word_start_weight: weight of a target that starts a word; all others weigh 1, and the loss is the
            weighted mean.
        word_start_from: that weight at the run's beginning, from where it goes linearly to
            `word_start_weight` at its end; None: the same throughout.
        word_starts: the tokens that start a word, as "3,7-9"; empty: the tokenizer tells.
        focal_gamma: a target of probability p has its cross-entropy multiplied by (1 - p)^focal_gamma.
        mtp_heads: auxiliary heads that predict the tokens behind the next one; no final model has them.
        mtp_weight: of the mean of their losses.
        jepa_weight: of an auxiliary loss: what the head reads predicts the next position's embedding.
        meta_weight: of the loss of sequences' second halves after one gradient step on their first
            halves (meta-TTT, first order).
        meta_rate: of that gradient step, which the matrices inside blocks take.
        meta_every: steps from one with that term to the next; steps below half the peak rate in the
            schedule's fall have none.
        meta_freeze: first blocks that do not take the step.
        qk_init_tokens: training tokens whose neighbourhoods the first block's queries and keys begin
            from; 0: they begin as all others do.
        curriculum_steps: steps at the beginning that draw from the sequences of the most frequent
            tokens: a tenth of them first, more and more later.
        loops_from: share of the budget from which on repeated blocks are repeated; until then each block
            runs once.
        ema_decay: decay of a moving average of the weights that replaces them in the final model,
            or None. Warm-down does the same job; use one of them.
        swa_start: share of the budget from which on weights are averaged, equally, and replace them in
            the final model, or None.
        swa_every: steps between weights that `swa_start` averages.
        decay_final: factor on all decay at the end of a run, reached linearly over its last
            `warmdown_fraction`; 1: none.
        cautious_decay: weights decay only where the update has just made them smaller, too.
        budget: size of the artifact that the run is for: "16MB", "2.5bpw"; needed by the next seven.
        aim_from: share of the run's budget from which on it prepares for its artifact.
        aim_looks: how often from there on the compiler's steps are worked out anew.
        aim_tokens: training tokens that each of these looks calibrates on.
        codes_share: of `minutes`, the share kept for training the artifact's codes behind the run,
            unless the first look finds that steps gain more in that time; 0: that comes on top.
        aim_errors: share of the compiler's own error with which passes run from there on.
        aim_rounding: passes run on weights rounded to the compiler's steps from there on.
        aim_trellis: passes run on the nearest weights that the compiler's codes with states can stand
            for from there on.
        rate_decay: how fast weights shrink by what lowers the compiler's bits, as `weight_decay` is;
            rises linearly from there on.
        param_dtype: of weights, gradients and the optimiser's state: float32 or bfloat16.
        precision: of products in forward passes: bfloat16, float32, or auto (bfloat16 on CUDA).
        grad_checkpoint: compute blocks again in the backward pass, to keep less in memory.
        seed: of initial weights, of the order of the data and of dropout.
        val_every: steps between validation losses (the last step always has one), or None.
        val_batches: batches of a validation, spread evenly over the tokens; None: all of them.
        log_every: steps between lines of the log; the last step always has one.
        save_every: steps between resumable checkpoints; the last step always has one.
        sample_every: steps between sampled texts in the log (the last step always has some), or None;
            needs a tokenizer.
        system_every: steps between checkpoints as the family's own system has them (the last step
            always has one), or None.
        analyse_every: steps between analyses of attention and projections (before the first step and
            after the last there is always one), or None.
        threads: CPU threads of torch, or None for torch's own choice.
        device: "auto", "cpu", or "cuda".
        compile_mode: mode of torch.compile for training passes, or None to leave it out.

    Raises:
        UsageError: a value out of its range, or values that do not fit each other.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_tokens: int = 2048
    seq_len: int = 256
    seq_schedule: str = ""
    accumulate: int = 1
    order: str = "epochs"
    optimizer: str = "muon"
    lr: float = 3e-4
    matrix_lr: float = 0.03
    embed_lr: float = 0.01
    head_lr: float = 0.008
    scalar_lr: float = 0.01
    beta1: float = 0.9
    beta2: float | None = None
    eps: float = 1e-8
    momentum: float = 0.95
    momentum_start: float | None = None
    momentum_steps: int = 500
    momentum_cycle: int | None = None
    weight_decay: float = 0.1
    embed_decay: float = 0.0
    scalar_decay: float = 0.0
    schedule: str = "trapezoid"
    warmup_steps: int = 20
    warmup_from: float = 0.0
    warmdown_fraction: float = 0.4
    final_lr_share: float = 0.0
    grad_clip: float | None = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    ignore_id: int | None = None
    word_start_weight: float = 1.0
    word_start_from: float | None = None
    word_starts: str = ""
    focal_gamma: float = 0.0
    mtp_heads: int = 0
    mtp_weight: float = 0.2
    jepa_weight: float = 0.0
    meta_weight: float = 0.0
    meta_rate: float = 0.002
    meta_every: int = 4
    meta_freeze: int = 0
    qk_init_tokens: int = 0
    curriculum_steps: int = 0
    loops_from: float = 0.0
    ema_decay: float | None = None
    swa_start: float | None = None
    swa_every: int = 50
    decay_final: float = 1.0
    cautious_decay: bool = False
    budget: str = ""
    aim_from: float = 0.6
    aim_looks: int = 2
    aim_tokens: int = 4096
    codes_share: float = 0.0
    aim_errors: float = 0.0
    aim_rounding: bool = False
    aim_trellis: bool = False
    rate_decay: float = 0.0
    param_dtype: str = "float32"
    precision: str = "auto"
    grad_checkpoint: bool = False
    seed: int = 0
    val_every: int | None = None
    val_batches: int | None = None
    log_every: int = 10
    save_every: int = 100
    sample_every: int | None = None
    system_every: int | None = None
    analyse_every: int | None = None
    threads: int | None = None
    device: str = "cpu"
    compile_mode: str | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError(
                f"the budget is steps={self.steps} and minutes={self.minutes}",
                "Give exactly one of steps and minutes.",
            )
        check_ranges(vars(self))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}", f"It must be one of {', '.join(choices)}."
                )
        check_compile_mode(self.compile_mode)
        self._check_batch()
        if self.momentum_cycle is not None and self.momentum_start is None:
            raise UsageError(
                "momentum_cycle needs the other end of its swing",
                "set train.momentum_start, such as 0.85",
            )
        if self.ema_decay is not None and self.swa_start is not None:
            raise UsageError(
                "ema_decay and swa_start both average the weights", "Set one of them alone."
            )

        self._check_aim()
        self._check_features()

    def _check_aim(self) -> None:
        told = [n for n in ("aim_errors", "aim_rounding", "aim_trellis") if getattr(self, n)]
        if self.budget:
            parse_size(self.budget, 1 << 40)  # of a size it says what is wrong with it
        elif told or self.rate_decay or self.codes_share:
            raise UsageError(
                "the run is to prepare for its artifact, whose size nobody said",
                "Set train.budget, or use --for SIZE.",
            )
        if len(told) > 1:
            raise UsageError(
                f"{' and '.join(told)} each stand for the compiler", "Set one of them alone."
            )

    def _check_features(self) -> None:
        if self.focal_gamma and self.label_smoothing:
            raise UsageError(
                "focal_gamma and label_smoothing both change the loss of a target",
                "Set one of them alone.",
            )
        if self.meta_weight and self.grad_checkpoint:
            raise UsageError(
                "meta_weight adapts weights, and grad_checkpoint would compute blocks with others",
                "Leave out one of them.",
            )
        shortest = min([self.seq_len, *(length for _, length in self.lengths)])
        needed = max(self.mtp_heads + 1, 2 if self.meta_weight else 1)
        if shortest < needed:
            raise UsageError(
                f"sequences of {shortest} tokens are too short for mtp_heads or meta_weight",
                f"Use sequences of {needed} tokens or more.",
            )

    @property
    def weighs_word_starts(self) -> bool:
        return self.word_start_weight != 1.0 or self.word_start_from not in (None, 1.0)

    @property
    def weighs_targets(self) -> bool:
        return self.weighs_word_starts or self.focal_gamma > 0.0

    @property
    def has_heads(self) -> bool:
        return self.mtp_heads > 0 or self.jepa_weight > 0.0

    def _check_batch(self) -> None:
        if self.batch_tokens % self.seq_len:
            raise UsageError(
                f"batch_tokens is {self.batch_tokens}, not a multiple of seq_len {self.seq_len}",
                f"Use {max(1, self.batch_tokens // self.seq_len) * self.seq_len}, for instance.",
            )
        if self.rows % self.accumulate:
            raise UsageError(
                f"{self.rows} sequences a step are no {self.accumulate} equal parts",
                f"Use an accumulate that divides {self.rows}, or another batch_tokens.",
            )
        longest = max((length for _, length in self.lengths), default=0)
        if longest > self.seq_len:
            raise UsageError(
                f"seq_schedule asks for {longest} > block {self.seq_len}",
                f"Set train.seq_len={longest}, or leave out what is longer than the block.",
            )

    @property
    def rows(self) -> int:
        """Sequences per step."""
        return self.batch_tokens // self.seq_len

    @property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """(first step, sequence length) of every part of the schedule, in order."""
        return read_lengths(self.seq_schedule)

    @property
    def peak_lr(self) -> float:
        """The peak rate of the matrices inside blocks."""
        return self.matrix_lr if self.optimizer == "muon" else self.lr

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, BETA2[self.optimizer] if self.beta2 is None else self.beta2

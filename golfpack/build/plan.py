"""`golfpack plan`: what each budget would cost, and by which schemes, before anything is built."""

import time
from collections.abc import Sequence
from pathlib import Path

from golfpack.base.documents import save
from golfpack.base.progress import Notify, silent
from golfpack.build.in_sequence import InSequence
from golfpack.build.options import BuildOptions
from golfpack.build.plan_report import PlanReport, PlanRow, PlanTensor, PlanTime
from golfpack.build.planfile import read_plan
from golfpack.build.prepare import (
    Prepared,
    check_output,
    code_bytes,
    prepare,
    read_model,
    with_its_tokenizer,
)
from golfpack.errors import UsageError
from golfpack.packer.aim import Bytes
from golfpack.packer.passes.mix import Mix
from golfpack.packer.predict import Prediction, Predictor
from golfpack.packer.recipe import Recipe, pass_tables
from golfpack.packer.state import PackState

# Without a budget: the range in which people build, in bits per weight.
DEFAULT_BUDGETS = ("2bpw", "2.5bpw", "3bpw", "3.5bpw", "4bpw", "5bpw", "6bpw")
# Rounds of the search: the median of all shipped recipes at 4.0 and 2.9 bits per weight on a model of
# 0.5M weights; they needed 2 to 8. In front of rounding in sequence, which fills the budget, 2 or 3.
TYPICAL_ROUNDS, LOOSE_ROUNDS = 4, 3


def plan(
    options: BuildOptions, budgets: Sequence[str | int] = (), notify: Notify = silent
) -> PlanReport:
    """Predict size, KL and loss of every budget from calibration alone, and resolve the schemes.

    With one budget, every tensor's share is predicted too. Without any, a recipe that measures
    gradients is planned for a range of budgets, another as it is written, at dial 1.
    `options.output` is a file to write the plan to, which `build` replays.

    Raises:
        UsageError: bad input. BudgetError: less than the recipe's coarsest steps make.
    """
    began = time.perf_counter()
    options = with_its_tokenizer(options)
    if options.output is not None:
        check_output(options.output, options.inputs.checkpoint)
        _check_a_plan(options.output)
        if len(budgets) > 1:
            raise UsageError("a plan file is for one budget", "give one --budget, or no --output")
    notify("read", 0, 0, options.inputs.checkpoint.name)
    model, recipe = read_model(options, [Bytes(b) for b in budgets])
    numel, code = model.spec.numel, code_bytes(options.inputs.code)
    sizes = sorted(Bytes(b).total(numel) - code for b in _asked(recipe, budgets))
    prepared = prepare(model, recipe, options, notify)
    ready = prepared.ready(sizes[0] if sizes else None, notify)
    predictor = Predictor(ready, recipe, None if sizes else 1.0)
    set_up = time.perf_counter() - began
    behind = _follow(prepared, ready, predictor)
    found: list[Prediction] = [] if sizes else [predictor.at(1.0)]
    for size in sizes:
        notify("plan", len(found), len(sizes), f"{size:,} bytes")
        if len(found) and _follows_budget(recipe):
            ready = prepared.ready(size, notify)
            predictor = Predictor(ready, recipe)
            _follow(prepared, ready, predictor)
        found.append(predictor.predict(size))
    one = found[0] if len(found) == 1 else None
    report = PlanReport(
        checkpoint=str(options.inputs.checkpoint),
        checkpoint_sha256=model.sha256,
        recipe=recipe.name,
        settings=list(options.inputs.settings),
        calibrates=recipe.calibration,
        passes=pass_tables(recipe),
        search=vars(recipe.search),
        parameters=numel,
        budget_bytes=None if one is None or one.budget_bytes is None else one.budget_bytes + code,
        code_bytes=code,
        calibration=prepared.calibration,
        kl_ratio=predictor.kl_ratio,
        rows=[_row(p, code, prepared) for p in found],
        tensors=_tensors(ready, one) if len(budgets) <= 1 else [],
        time=_time(set_up, predictor, behind),
        seconds=time.perf_counter() - began,
        assumed=model.assumed,
    )
    if options.output is not None:
        save(report, options.output)
    return report


def _check_a_plan(output: Path) -> None:
    """Raise UsageError where something else than an earlier plan would be replaced."""
    if output.exists():
        try:
            read_plan(output)
        except UsageError as e:
            raise UsageError(f"{output} exists and is no plan", "choose another --output") from e


def _asked(recipe: Recipe, budgets: Sequence[str | int]) -> Sequence[str | int]:
    """The budgets to plan for. Raises UsageError where the recipe cannot do without."""
    if budgets:
        return budgets
    if _follows_budget(recipe):
        raise UsageError(f"recipe {recipe.name} chooses schemes by the budget", "add --budget SIZE")
    return DEFAULT_BUDGETS if recipe.gradients else ()


def _follows_budget(recipe: Recipe) -> bool:
    """Whether schemes depend on the budget."""
    return any(isinstance(p, Mix) for p in recipe.prepare)


def _row(p: Prediction, code: int, prepared: Prepared) -> PlanRow:
    budget = None if p.budget_bytes is None else p.budget_bytes + code
    return PlanRow(budget, p.artifact_bytes, p.bits_per_weight, p.dial, p.kl, prepared.bpb(p.kl))


def _tensors(state: PackState, found: Prediction | None) -> list[PlanTensor]:
    """Every tensor's scheme, and with one prediction what it costs."""
    rows = []
    for name, scheme in state.plan.items():
        t = state.spec[name]
        share = None if found is None else found.tensors[name]
        exact = found is not None and found.dial == 0
        rows.append(
            PlanTensor(
                name=name,
                role=t.role,
                shape=t.shape,
                scheme=scheme.scheme_id,
                options=dict(vars(scheme)),
                label="exact" if exact else scheme.label,
                bytes=None if share is None else round(share.bytes),
                predicted_kl=None if share is None else share.kl,
            )
        )
    return rows


def _follow(prepared: Prepared, ready: PackState, predictor: Predictor) -> float:
    """Let predictions be of what is rounded in sequence, where builds do that; the seconds it takes."""
    if not prepared.recipe.search.in_sequence:
        return 0.0
    began = time.perf_counter()
    built = InSequence(prepared, ready, predictor.probed).at_the_same_dial()
    took = time.perf_counter() - began
    predictor.follow(built)
    return took


def _time(set_up: float, predictor: Predictor, behind: float) -> PlanTime:
    typical = LOOSE_ROUNDS if behind else TYPICAL_ROUNDS
    rounds = min(typical, predictor.recipe.search.max_rounds)
    ready = set_up - predictor.round_seconds
    whole = ready + rounds * predictor.round_seconds + behind
    return PlanTime(ready, predictor.round_seconds, rounds, whole, behind)

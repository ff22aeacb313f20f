"""Presets: what they say of themselves is what their systems are known to be."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from golfpack.errors import UsageError
from golfpack.inspect.train_plan import TrainPlan, train_plan
from golfpack.kv.layout import human_bytes
from golfpack.models import FAMILIES
from golfpack.models.checkpoint import load_checkpoint
from golfpack.train.choose import TrainOptions, choose
from golfpack.train.config import TrainConfig
from golfpack.train.loss import sequence_loss
from golfpack.train.presets import load_preset, preset_names
from golfpack.train.run import new_run, training_of
from golfpack.train.schedule import budget_used, lr_scale, tokens_per_second
from golfpack.train.sources import DataOptions
from golfpack.train.train import train
from golfpack.train.trainer import complete_options


def plan_of(preset: str, *settings: str, **options: Any) -> TrainPlan:
    return train_plan(TrainOptions(preset=preset, settings=settings, **options))


def rates(config: TrainConfig, steps: list[int]) -> list[float]:
    assert config.steps is not None
    return [config.peak_lr * lr_scale(config, s - 1, (s - 1) / config.steps) for s in steps]


# Parameters, the optimiser's bytes, tokens a step, KV cache at the block and at 128,000 tokens.
KNOWN = {
    "dba-1b": (1_050_335_520, 2_100_671_040, 131_072, "42.75MB", "2.61GB"),
    "dba-48-96": (116_799_632, 233_599_264, 4_096, "1.69MB", "843.8MB"),
    "tiny-bottleneck": (45_800_112, 8 * 45_800_112, 16_384, "2.25MB", "281.2MB"),
    "alpha-chat-4k": (6_838_784, 8 * 6_838_784, 4_096, "1.50MB", "750.0MB"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_systems_are_of_their_known_size(name: str) -> None:
    plan = plan_of(name)
    assert plan.kv_bytes is not None
    assert plan.kv_long_bytes is not None
    assert (
        plan.parameters, plan.optimizer_bytes, plan.tokens_per_step, human_bytes(plan.kv_bytes),
        human_bytes(plan.kv_long_bytes),
    ) == KNOWN[name]  # fmt: skip


def test_a_tokenizer_that_is_to_be_trained_tells_the_vocabulary() -> None:
    text = DataOptions(text=(Path("book.txt"),), train_vocab=777)
    assert train_plan(TrainOptions(data=text)).model["vocab_size"] == 777
    with pytest.raises(UsageError, match="lack vocab_size") as caught:
        train_plan(TrainOptions())
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("--set model.vocab_size=VALUE, or --tokenizer FILE")


def test_tied_keys_have_names_of_their_own_in_the_systems_files() -> None:
    plan = plan_of("dba-1b")
    assert (plan.keys, plan.aliases, plan.tensors) == (255, 36, 219)
    assert plan_of("dba-48-96").aliases == 0


def test_the_challenges_models_are_of_their_known_size() -> None:
    names = ("golf-baseline", "record-0405", "record-0409", "record-0427")
    found = [plan_of(name).parameters for name in names]
    assert found == [17_059_912, 35_943_512, 35_944_536, 35_945_671]


def test_the_experiments_are_of_their_known_size() -> None:
    """exp101's log has its count; "~25.5M" is all that is said of exp00, one factor more of exp09."""
    names = ("exp00", "exp09", "exp95", "exp101")
    found = [plan_of(f"golf-{name}").parameters for name in names]
    assert found == [found[0], found[0] + 1, 26_960_991, 26_960_991]
    assert round(found[0], -5) == 25_500_000
    exp101 = choose(TrainOptions(preset="golf-exp101")).config
    assert (exp101.meta_weight, exp101.meta_rate, exp101.meta_every, exp101.meta_freeze) == (
        0.5, 0.002, 4, 2,
    )  # fmt: skip


def test_rates_of_the_first_system() -> None:
    config = choose(TrainOptions(preset="dba-1b")).config
    assert rates(config, [1, 2, 50]) == pytest.approx([5e-7, 1e-6, 2.5e-5])
    plan = plan_of("dba-1b")
    assert [s.step for s in plan.steps] == [1, 2, 25, 50]
    assert plan.steps[-1].lr == pytest.approx(2.5e-5)
    assert all(s.lr is None for s in plan_of("golf-baseline").steps)


CELLS = {
    1: "3.05e-06", 10: "3.54e-06", 50: "5.70e-06", 100: "8.40e-06", 250: "1.65e-05", 500: "3.00e-05",
    750: "3.00e-05", 1000: "3.00e-05", 1500: "3.00e-05", 2000: "2.99e-05", 2500: "2.99e-05",
    3000: "2.98e-05", 3500: "2.98e-05", 4000: "2.97e-05", 4500: "2.96e-05", 5000: "2.95e-05",
}  # fmt: skip


def test_rates_of_the_chat_model() -> None:
    config = choose(TrainOptions(preset="alpha-chat-4k")).config
    assert [f"{rate:.2e}" for rate in rates(config, list(CELLS))] == list(CELLS.values())


def test_the_chat_models_rates_and_speeds_are_those_of_its_report(shared: Path) -> None:
    """16 of 16 milestones: the rate, and the tokens per second that a step's time stands for."""
    report = next((shared / "docs" / "seeds").glob("003_*.txt")).read_text(encoding="utf-8")
    table = report.split("### Milestone Steps")[1].split("###")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if "e-" in line
    ]
    config = choose(TrainOptions(preset="alpha-chat-4k")).config
    assert len(rows) == 16
    for step, _, _, _, rate, speed, step_ms in rows:
        before = int(step.replace(",", "")) - 1
        found = config.lr * lr_scale(config, before, budget_used(config, before, 0.0))
        assert f"{found:.2e}".replace("e-0", "e-") == rate
        per_second = tokens_per_second(config, before, float(step_ms.replace(",", "")))
        assert abs(per_second - float(speed.replace(",", ""))) <= 1


def test_what_decays_in_the_chat_model() -> None:
    """All but the tables and the norms; the head does."""
    chosen = choose(TrainOptions(preset="alpha-chat-4k"))
    assert plan_of("alpha-chat-4k").decayed == 6_838_784 - 1_024_000 - 65_536 - 13 * 512
    assert plan_of("tiny-bottleneck").decayed == 45_800_112
    assert (chosen.config.betas, chosen.config.eps) == ((0.9, 0.99), 1e-8)


def test_a_schedule_longer_than_the_block_is_refused() -> None:
    asked = "train.seq_schedule=256@0,512@500,1024@2000"
    with pytest.raises(UsageError, match="1024 > block 256"):
        plan_of("dba-48-96", asked)
    plan = plan_of("dba-48-96", asked, "train.seq_len=1024", "train.batch_tokens=16384")
    lengths = {s.step: s.seq_len for s in plan.steps}
    assert [lengths[s] for s in (1, 500, 501, 2000, 2001)] == [256, 256, 512, 512, 1024]
    assert plan.tokens == 79_872_000
    assert plan_of("dba-48-96").tokens == 24_576_000


# ln V + var / 2, var being that of a logit under the systems' initial weights.
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        pytest.param("tiny-bottleneck", 10.9273, marks=pytest.mark.slow),
        pytest.param("dba-48-96", 10.8564, marks=pytest.mark.slow),
        ("alpha-chat-4k", 8.3452),
    ],
)
def test_initial_losses(name: str, loss: float) -> None:
    chosen = choose(TrainOptions(preset=name))
    options = complete_options(chosen.family, chosen.shape, chosen.config.seq_len)
    spec = chosen.family.spec(options)
    model = new_run(chosen.family, spec, chosen.config).model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(spec.config["vocab_size"], (4, 257), generator=generator)
    with torch.no_grad():
        found = sequence_loss(model, ids.numpy(), "mean").item()
    assert found == pytest.approx(loss, abs=0.03)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole(name: str) -> None:
    preset = load_preset(name)
    assert preset.about.endswith(".")
    chosen = choose(TrainOptions(preset=name))
    shape = {"vocab_size": chosen.data.train_vocab or 0, **chosen.shape}
    shape |= training_of(chosen.family).from_tokenizer(shape, None)
    spec = chosen.family.spec(complete_options(chosen.family, shape, chosen.config.seq_len))
    assert chosen.family is FAMILIES[preset.family]
    assert chosen.config.seed in (42, 1337)  # those of the systems' own runs
    assert spec.numel > 500_000
    assert not name.endswith("-mini") or name.removesuffix("-mini") in preset_names()


def test_sizes_and_experiments_make_the_systems() -> None:
    """Size tiny with a bottleneck is the third system; what is given beside a preset comes first."""
    one, other = (
        choose(TrainOptions(preset=n)) for n in ("tiny-bottleneck", "size-tiny-bottleneck")
    )
    assert one.shape == other.shape
    assert (one.config.batch_tokens, one.config.steps) == (16_384, 6000)
    sizes = {n: plan_of(f"size-{n}-decoupled").model for n in ("small", "medium", "large", "1b")}
    assert [(m["sem_dim"], m["geo_dim"], m["attn_dim"]) for m in sizes.values()] == [
        (48, 96, 144), (64, 128, 192), (96, 192, 288), (256, 512, 768),
    ]  # fmt: skip
    assert sizes["1b"]["tie_qk"]
    assert sizes["1b"]["null_attn"]
    changed = choose(
        TrainOptions(
            preset="tiny-bottleneck", steps=7, seed=3, settings=("model.dim=64", "train.lr=0.5")
        )
    )
    assert (changed.config.steps, changed.config.seed, changed.config.lr) == (7, 3, 0.5)
    assert changed.shape["dim"] == 64
    assert choose(TrainOptions(preset="golf-baseline", steps=5)).config.minutes is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"preset": "dba-1c"}, "no preset 'dba-1c'"),
        ({"preset": "dba-1b", "family": "golf"}, "of the family bottleneck, not golf"),
        ({"preset": "none.toml"}, "no preset none.toml"),
        ({"settings": ("build.x=1",)}, "sets nothing here"),
        ({"settings": ("data.x=1",)}, "data has no option 'x'"),
        ({"family": "user"}, "family 'user' cannot be trained"),
        ({"data": DataOptions(train_vocab=9, tokens="x")}, "needs --text"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        train(TrainOptions(tmp_path / "run", **options))
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('about = "x"', "no 'family'"),
        ('about = "x"\nfamily = "golf"\nmodell = 1', "'modell', which no preset has"),
        ("about = ", "not valid TOML"),
        ('about = "x"\nfamily = "golf"\n[variants.a]\nabout = "y"\ntrian = 1', "'trian'"),
    ],
)
def test_a_file_that_is_no_preset_is_named(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=named):
        load_preset(str(tmp_path / "mine.toml"))


MINIS = [n for n in preset_names() if n.endswith("-mini")]


@pytest.mark.parametrize(  # those of `dba` are of the family of tiny-bottleneck-mini
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "dba" in n else []) for n in MINIS]
)
def test_a_mini_learns_text_and_is_read_back(name: str, tmp_path: Path) -> None:
    """Ten steps of it, on a text with structure: below what a model of token frequencies can reach."""
    words = [
        "the quick fox",
        "jumps over",
        "a lazy dog",
        "while it rains",
        "and then sleeps",
        "again",
    ]
    text = "\n".join(words[(i * i + i // 7) % 6] for i in range(3000))
    (tmp_path / "text.txt").write_text(text)
    vocab = 40 if name.startswith("alpha") else 300
    options = TrainOptions(
        tmp_path / "run", preset=name, steps=10, threads=1,
        data=DataOptions(text=(tmp_path / "text.txt",), train_vocab=vocab),
        settings=("train.seq_schedule=", "train.sample_every=10"),
    )  # fmt: skip
    result = train(options)
    assert result.val_loss is not None
    assert result.val_loss < math.log(vocab) - 0.4
    assert load_checkpoint(result.checkpoint).config["vocab_size"] == vocab


def test_a_shape_says_what_its_options_would() -> None:
    told = choose(TrainOptions(shape="2x48+2048x16x3")).shape
    assert told == choose(
        TrainOptions(
            settings=(
                "model.num_layers=2", "model.dim=48", "model.num_heads=4", "model.num_kv_heads=2",
                "model.mlp_hidden=144", "model.bigram_size=2048", "model.bigram_dim=16",
                "model.bigram_trigram=true",
            )
        )
    ).shape  # fmt: skip
    kept = choose(TrainOptions(preset="golf-baseline", shape="2x48"))
    assert (kept.shape["dim"], kept.config) == (
        48,
        choose(TrainOptions(preset="golf-baseline")).config,
    )
    for options in (
        TrainOptions(shape="2x48", settings=("model.dim=64",)),
        TrainOptions(shape="2x48", settings=("model.bigram_size=64",)),
        TrainOptions(shape="2x48", family="bottleneck"),
        TrainOptions(shape="2x48+64x16x3", family="gpt2"),
    ):
        with pytest.raises(UsageError):
            choose(options)

"""Recipes: what is shipped loads, what is wrong is named with what was probably meant."""

from dataclasses import fields

import pytest

from golfpack.base.convert import parse_value
from golfpack.base.sizes import parse_size
from golfpack.errors import UsageError
from golfpack.packer.recipe import PASSES, STAGES, load_recipe, recipe_names
from golfpack.packer.state import run_passes


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_say_what_they_are(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert len(recipe.about) > 20
    ids = [p.name for p in recipe.passes]
    assert set(ids) <= set(PASSES)
    assert [p.stage for p in recipe.passes] == sorted(
        (p.stage for p in recipe.passes), key=STAGES.index
    )
    assert all((recipe.prepare, recipe.quantize, recipe.write))


def test_settings_reach_their_pass_in_its_own_type():
    recipe = load_recipe("rd", ["sense.damp=1", "search.slack=7", "round.feedback=false"])
    sense = next(p for p in recipe.passes if p.name == "sense")
    assert (vars(sense)["damp"], type(vars(sense)["damp"])) == (1.0, float)
    assert recipe.search.slack == 7
    assert next(vars(p) for p in recipe.quantize if p.name == "round")["feedback"] is False
    settings = ['encode.codec={"id": "lzma", "preset": 6}', "encode.side_codec=zlib"]
    encode = vars(load_recipe("sdclip-brotli", settings).write[0])
    assert (encode["codec"], encode["side_codec"]) == ({"id": "lzma", "preset": 6}, "zlib")
    assert [parse_value(v) for v in ("3", "x", "[1]", "true")] == [3, "x", [1], True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["sense.dampp=1"], "did you mean 'damp'"),
        (["search.tolerence=1"], "did you mean 'tolerance'"),
        (["search.floor=1"], "did you mean 'floor_bpw'"),
        (["sens.damp=1"], "sense"),
        (["damp=1"], "PASS.OPTION=VALUE"),
        (["sense.damp"], "PASS.OPTION=VALUE"),
        (["sense.damp=big"], "it takes a number"),
        (["sense.two_sided=3"], "it takes true or false"),
        (["sense.order=sideways"], "choose from natural, falling, rising"),
        (["round.survivors=65"], "choose 0 to 64"),
        (["search.slack=true"], "it takes an integer"),
        (["search.slack=1.5"], "it takes an integer"),
        (["encode.filters=shuffle"], "it takes a list"),
        (["encode.codec=[1]"], "it takes text or a table"),
    ],
)
def test_a_wrong_setting_names_what_was_meant(settings, says):
    with pytest.raises(UsageError) as e:
        load_recipe("rd", settings)
    assert says in f"{e.value.message} {e.value.hint}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[pass", "TOML"),
        ("name = 'x'", "no passes"),
        ("pass = []", "no passes"),
        ("[[pass]]\nid = 'polcy'", "policy"),
        ("[[pass]]\nname = 'x'", "None"),
        ("[[pass]]\nid = ['policy']", "policy"),
        ("pass = 3", "pass"),
        ("search = 3\n[[pass]]\nid = 'policy'", "search is no table"),
        ("pass = ['policy']", "pass"),
        ("[[pass]]\nid = 'sense'\ndamping = 1", "damp"),
        ("[[pass]]\nid = 'sense'\ndamp = inf", "damp cannot be inf"),
        ("calibratoin = 'none'\n[[pass]]\nid = 'sense'", "calibration"),
        (
            "[search]\nmax_rounds = 0\n[[pass]]\nid = 'policy'\n[[pass]]\nid = 'steps'\n[[pass]]\n"
            "id = 'round'\n[[pass]]\nid = 'encode'",
            "max_rounds is 0",
        ),
    ],
)
def test_a_recipe_file_that_makes_no_sense(tmp_path, text, says):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as e:
        load_recipe(str(path))
    assert says in f"{e.value.message} {e.value.hint}"
    with pytest.raises(UsageError, match="there is no recipe"):
        load_recipe(str(tmp_path / "none.toml"))


def test_an_unknown_recipe_names_a_near_one():
    with pytest.raises(UsageError) as e:
        load_recipe("int8-zst")
    assert "int8-zlib" in str(e.value.hint)
    with pytest.raises(UsageError) as e:
        load_recipe("qqqqq")
    assert "rd" in str(e.value.hint)


@pytest.mark.parametrize(
    "order",
    [
        ("sense", "policy", "steps", "round", "encode"),
        ("policy", "steps", "round", "encode"),
        ("policy", "sense", "steps", "round", "prune_ones", "encode"),
    ],
)
def test_passes_in_the_wrong_order_are_named(tmp_path, make_state, order):
    rules = "\nrules = [{ scheme = 'rd' }]"
    lines = [f"[[pass]]\nid = '{p}'{rules if p == 'policy' else ''}" for p in order]
    path = tmp_path / "order.toml"
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="needs") as e:
        run_passes(load_recipe(str(path)).passes, make_state())
    assert "before it" in e.value.message


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (("policy", "sense"), "it needs the passes steps, round, encode"),
        (("policy", "sense", "round", "steps", "encode"), "in that order, once"),
        (("policy", "sense", "steps", "round", "encode", "encode"), "in that order, once"),
        (("policy", "steps", "sense", "round", "encode"), "'sense' is one to prepare"),
        (("policy", "sense", "steps", "encode", "round"), "'round' is one to quantize"),
        (("policy", "sense", "fit", "steps", "round", "encode"), "no pass any more"),
    ],
)
def test_a_recipe_has_its_passes_by_stage(tmp_path, order, says):
    path = tmp_path / "order.toml"
    path.write_text("\n".join(f"[[pass]]\nid = '{p}'" for p in order))
    with pytest.raises(UsageError, match=says):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "order",
    [
        ("prune_magnitude", "policy", "sense", "steps", "round", "encode"),
        ("policy", "awq", "sense", "steps", "round", "encode"),
        ("policy", "sense", "steps", "round", "lowrank", "encode"),
        ("policy", "sense", "steps", "round", "encode", "prune_ones"),
    ],
)
def test_what_changes_weights_or_codes_by_itself_is_not_rounded_in_sequence(tmp_path, order):
    rules = "\nrules = [{ scheme = 'rd' }]"
    lines = [f"[[pass]]\nid = '{p}'{rules if p == 'policy' else ''}" for p in order]
    path = tmp_path / "more.toml"
    path.write_text("[search]\nin_sequence = true\n" + "\n".join(lines))
    with pytest.raises(UsageError, match="does not go with the pass") as e:
        load_recipe(str(path))
    assert "search.in_sequence=false" in str(e.value.hint)
    load_recipe(str(path), ["search.in_sequence=false"])


def test_every_pass_option_has_a_default():
    for kind in PASSES.values():
        assert {f.name for f in fields(kind)} == set(vars(kind()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16MB", 16_000_000), ("16MiB", 16_777_216), ("16000000", 16_000_000), ("10kB", 10_000),
        ("16,000,000", 16_000_000), ("16_000_000 b", 16_000_000), ("1.5KiB", 1536), ("3.5bpw", 437),
        ("0.001mb", 1000), (" 2 GB ", 2 * 10**9),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text, 1000) == size


@pytest.mark.parametrize(
    "text",
    ["16potato", "", "MB", "-1MB", "0", "0.0001kB", "1e6", "16 M B", "1,00", "nan", "9" * 9999],
)
def test_what_is_no_size(text):
    with pytest.raises(UsageError) as e:
        parse_size(text, 1000)
    assert "16MB" in str(e.value.hint)

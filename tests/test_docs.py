"""Help and documentation keep up with the tables."""

import importlib
import sys
from pathlib import Path

import pytest
from typer.models import OptionInfo

from golfpack.cli import app
from golfpack.models import FAMILIES
from golfpack.packer.format.codecs import CODECS
from golfpack.packer.format.filters import FILTERS
from golfpack.packer.quantize.clip import CLIPS
from golfpack.packer.quantize.schemes import SCHEMES
from golfpack.packer.recipe import PASSES, load_recipe, recipe_names
from golfpack.train.presets import preset_names

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))
make_commands = importlib.import_module("make_commands")
COMMANDS = {c.name or c.callback.__name__: c for c in app.registered_commands if c.callback}


def test_every_file_of_commands_is_in_the_table():
    shared = {"__init__", "complete", "documents", "options"}
    files = {p.stem for p in (ROOT / "golfpack" / "commands").glob("*.py")} - shared
    assert files == {c.callback.__name__ for c in COMMANDS.values()}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_an_example(name):
    command = COMMANDS[name]
    assert command.callback is not None
    assert len(command.callback.__doc__ or "") > 20
    assert f"golfpack {name} " in (command.epilog or "")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_is_for(name):
    for option, _, told, _ in make_commands.options_of(COMMANDS[name].callback):
        assert len(told.help or "") > 10, option


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_no_type_of_python_for_what_an_option_takes(name):
    for option, kind, told, _ in make_commands.options_of(COMMANDS[name].callback):
        if isinstance(told, OptionInfo) and "list" in str(kind):
            assert told.metavar, option


def test_the_page_of_commands_is_up_to_date():
    assert make_commands.PAGE.read_text(encoding="utf-8") == make_commands.page(), (
        "run python docs/make_commands.py"
    )


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is(name):
    assert load_recipe(name).about.endswith(".")


TABLES = {
    "codec": CODECS, "filter": FILTERS, "scheme": SCHEMES, "clip": CLIPS, "pass": PASSES,
    "family": FAMILIES, "recipe": recipe_names(), "command": COMMANDS,
    "preset": [name for name in preset_names() if not name.startswith("size-")],
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_everything_a_user_can_name_is_documented(kind):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(p.read_text() for p in pages)
    missing = [i for i in TABLES[kind] if f"`{i}`" not in text and f"golfpack {i}" not in text]
    assert not missing, f"no page under docs/ names the {kind} {', '.join(missing)}"

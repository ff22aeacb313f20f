"""Tables of tensors: what stands in them, what fits, what stands out."""

import io
from dataclasses import fields, replace

import pytest
from conftest import TINY
from rich.console import Console

from golfpack.commands.inspect import show_inspect
from golfpack.commands.render import tensors as render
from golfpack.errors import UsageError
from golfpack.inspect.inspect import inspect
from golfpack.measure.columns import COLUMNS, GROUP_COLUMNS, TENSOR_COLUMNS, grouped, ordered, worst
from golfpack.measure.tensors import TensorReport


def tensor(i: int, **changes) -> TensorReport:
    row = TensorReport(
        f"blocks.{i}.attention.projection.weight", "attn_out", (8, 5 + i), "int6 row", 30 + i, 2,
        8 * (30 + i) / (8 * (5 + i)), 3.0, 0.25, 0.01 * i, 40.0 - i, 1e-4 * (i * 5 % 7), 0.2, i,
        kl_share=(i * 5 % 7) / 21,
    )  # fmt: skip
    return replace(row, **changes)


ROWS = [
    *(tensor(i) for i in range(7)),
    tensor(8, name="norm", role="vector", block=None, shape=(3,), rel_err=0.0, sqnr_db=None),
]


@pytest.fixture
def shown(monkeypatch):
    """shown(width, *args): what show_tensors prints on a terminal of that width; None is a pipe."""

    def show(width: int | None, *args, **options) -> list[str]:
        file = io.StringIO()
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        console = Console(
            file=file, highlight=False, soft_wrap=True, markup=False, width=width or 200,
            force_terminal=width is not None, no_color=True, color_system=None,
        )  # fmt: skip
        monkeypatch.setattr(render, "out", console)
        render.show_tensors(ROWS, *args, **options)
        return file.getvalue().splitlines()

    return show


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("group", [None, "role", "block"])
def test_a_table_fits_its_terminal_and_says_what_it_left_out(shown, width, group):
    lines = shown(width, group)
    rows = len(ROWS if group is None else grouped(ROWS, group))
    assert max(map(len, lines[: rows + 1])) <= width
    head = lines[0]
    every = [COLUMNS[n].header for n in TENSOR_COLUMNS if group is None] or [
        COLUMNS[n].header for n in (group, *GROUP_COLUMNS)
    ]
    told = next((line for line in lines if line.startswith("left out")), "")
    for header in every:
        assert (header in head.split("  ") or f" {header} " in f" {head} ") != (header in told)
    assert every[0] in head
    assert "bytes" in head
    if width == 140:
        assert not told


def test_names_are_told_apart_however_narrow(shown):
    cells = [line[3:].split("  ")[0] for line in shown(50, None)[1:9]]
    assert len(set(cells)) == 8
    assert any("…" in c for c in cells)


def test_a_pipe_gets_everything(shown):
    columns = [n for n in COLUMNS if n not in ("tensors", "params")]
    lines = shown(None, None, None, columns)
    assert len(lines[0]) > 200
    assert all(COLUMNS[n].header in lines[0] for n in columns)
    assert "left out" not in "".join(lines)


def test_the_five_that_lost_most_stand_out(shown):
    most = sorted(ROWS, key=lambda r: -(r.kl_share or 0))[:5]
    assert worst(ROWS) == {r.name for r in most}
    lines = shown(None, None)
    assert {line.split()[1] for line in lines if line.startswith("!  ")} == worst(ROWS)
    blind = [replace(r, kl_share=None) for r in ROWS]
    assert worst(blind) == {r.name for r in sorted(ROWS, key=lambda r: -(r.rel_err or 0))[:5]}
    assert not worst([replace(r, rel_err=None) for r in blind])


@pytest.mark.parametrize("by", ["role", "block"])
def test_groups_add_up(by):
    groups = grouped(ROWS, by)
    assert sum(g.bytes for g in groups) == sum(r.bytes for r in ROWS)
    assert sum(g.tensors for g in groups) == len(ROWS)
    assert sum(g.kl_share or 0 for g in groups) == pytest.approx(sum(r.kl_share or 0 for r in ROWS))
    assert [getattr(g, by) for g in groups] == list(dict.fromkeys(getattr(r, by) for r in ROWS))
    (first, *_), mine = groups, [r for r in ROWS if getattr(r, by) == getattr(ROWS[0], by)]
    assert first.rel_err == max(r.rel_err or 0 for r in mine)
    assert first.sqnr_db == min(r.sqnr_db for r in mine if r.sqnr_db is not None)


def test_sorting():
    assert ordered(ROWS, None) == ROWS
    for by in ("bytes", "bpw", "rel_err", "predicted_kl", "kl_share", "shape"):
        values = [getattr(r, by) for r in ordered(ROWS, by)]
        assert values == sorted(values, reverse=True)
    for by in ("predicted_kl", "block"):
        unknown = replace(ROWS[0], **{by: None})
        assert ordered([unknown, *ROWS[:3]], by)[-1] is unknown
    for by in ("name", "role", "scheme"):
        values = [getattr(r, by) for r in ordered(ROWS, by)]
        assert values == sorted(values)
    assert [g.block for g in ordered(grouped(ROWS, "block"), "name")] == [None, *range(7)]


def test_every_column_is_explained(shown):
    text = "\n".join(shown(None, None, explain=True))
    assert all(c.explain in text for n, c in COLUMNS.items() if n not in ("tensors", "params"))


def test_tables_that_cannot_be_are_refused():
    assert render.read_group("tensor", each="tensor") is None
    with pytest.raises(UsageError, match="no table by 'family'"):
        render.read_group("family", each="none")
    with pytest.raises(UsageError) as refused:
        render.read_group("blocks", each="none")
    assert refused.value.hint == "did you mean 'block'? choose from role, block, none"
    for args, says, hint in (
        (
            (None, "size", None),
            "no column 'size'",
            "did you mean 'side_bytes'? columns: name, role",
        ),
        ((None, "potato", None), "no column 'potato'", "columns: name, role"),
        ((None, None, ["nam"]), "no column 'nam'", "did you mean 'name'?"),
        ((None, None, ["SQNR"]), "no column 'SQNR'", "did you mean 'sqnr_db'?"),
        ((None, "klshare", None), "no column 'klshare'", "did you mean 'kl_share'?"),
        (("role", None, ["clipped"]), "no column 'clipped'", "columns: role, block"),
        (("role", "entropy", None), "no column 'entropy'", "columns: role, block"),
        (("block", None, ["name"]), "'name' in a table by block: its rows are gr", "columns: role"),
        ((None, None, []), "no column is named", "columns: name, role"),
    ):
        with pytest.raises(UsageError, match=says) as e:
            render.read_table(*args)
        assert (e.value.hint or "").startswith(hint)


def test_every_heading_and_every_json_key_means_its_column():
    keys = [f.name for f in fields(TensorReport)]
    for group, rows in ((None, ROWS), ("role", grouped(ROWS, "role"))):
        shown = [n for n in COLUMNS if (n in keys if group is None else hasattr(rows[0], n))]
        names = [n for n in shown if group is None or n != "name"]
        for said in (names, [COLUMNS[n].header for n in names]):
            assert render.read_table(group, None, said)[1] == names
            assert render.read_table(group, None, [s.upper() for s in said])[1] == names
            assert render.read_table(group, None, [*said, *names])[1] == names
            assert [render.read_table(group, s, None)[0] for s in said] == names
        assert render.read_table(group, "kl", None) == ("predicted_kl", None)
        assert render.read_table(group, "name", None) == ("name", None)


def test_groups_say_that_errors_are_of_their_worst_tensor(shown):
    for width, columns in ((None, None), (None, ["bytes"]), (40, None)):
        lines = shown(width, "role", None, columns, True)
        (line,) = (line for line in lines if line.startswith("rel_err  "))
        assert line.endswith("the role's worst tensor")
    assert not any("worst tensor" in line for line in shown(None, None, None, None, True))


def test_inspect_tells_of_the_config_what_its_family_does_not(tiny_path, capsys):
    report = inspect(tiny_path, settings=("model.softcap=20", "model.ln_scale=true"))
    show_inspect(report)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("family golf: "))
    told = line.partition(": ")[2].split(", ")
    given = {"softcap": 20.0, "ln_scale": True}
    assert set(told[:-1]) == {f"{k}={v}" for k, v in (TINY | given).items()}
    rest = len(report.config) - len(told) + 1
    assert told[-1] == f"{rest} others at the family's defaults (--json has all)"


def test_values_that_look_wrong_are_explained_where_they_are_shown(shown, monkeypatch):
    def lines_of(rows, *args):
        monkeypatch.setitem(globals(), "ROWS", rows)
        return [line for line in shown(None, *args) if " above 1 (" in line or " below 0:" in line]

    assert lines_of(ROWS, None) == []
    far = [*ROWS, tensor(9, rel_err=1.2, sqnr_db=-1.6, bits_over_rd=-0.1, bits_over_two_sided=-0.2)]
    assert [line[:13] for line in lines_of(far, None)] == ["rel_err above"]
    assert [line[:13] for line in lines_of(far, "role")] == ["rel_err above"]
    assert [line[:13] for line in lines_of(far, None, None, ["sqnr_db"])] == ["rel_err above"]
    columns = ["name", "bits_over_rd", "bits_over_two_sided"]
    assert [line[:9] for line in lines_of(far, None, None, columns)] == ["over R(D)", "two-sided"]
    assert lines_of(far, None, None, ["name", "bytes"]) == []

"""What chapters record is read back as it was, and a claim is judged by it and by nothing else."""

import contextlib
import io
import json
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from ntklc_helpers.experiments.ledger import (
    Claim,
    Loss,
    Verdict,
    mean_spread,
    read,
    record,
    span,
)


def executed(folder, stem, *cells, tags=("ledger",)):
    """A notebook of one cell for each list of texts, which it printed."""
    recording = []
    for number, printed in enumerate(cells):
        code = nbformat.v4.new_code_cell("record()", id=f"cell{number}")
        code.metadata["tags"] = list(tags)
        code.outputs = [nbformat.v4.new_output("stream", name="stdout", text=t) for t in printed]
        recording.append(code)
    other = nbformat.v4.new_code_cell("print(1)", id="other")
    other.outputs = [nbformat.v4.new_output("stream", name="stdout", text="not this\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=[other, *recording]), folder / f"{stem}.ipynb")


numbers = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.booleans() | st.text()


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), numbers | st.lists(numbers)))
def test_what_is_recorded_is_read(tmp_path_factory, values):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        record(**values)
    folder = tmp_path_factory.mktemp("chapters")
    executed(folder, "01_first", [out.getvalue()])
    assert read(folder) == {"01_first": values}


def test_numpy_is_recorded_as_numbers(capsys):
    record(a=np.float32(0.5), b=np.arange(3), c=np.inf, d=np.bool_(True), e={"x": np.int64(2)})
    values = json.loads(capsys.readouterr().out)
    assert values == {"a": 0.5, "b": [0, 1, 2], "c": math.inf, "d": True, "e": {"x": 2}}
    with pytest.raises(TypeError, match="record takes numbers, strings, lists and dicts"):
        record(a=object())


def test_a_chapter_may_record_in_several_cells(tmp_path):
    executed(tmp_path, "01_first", ['{"a": 1}'], ['{"b": 2}'])
    assert read(tmp_path) == {"01_first": {"a": 1, "b": 2}}


def test_chapters_without_a_record_are_left_out(tmp_path):
    executed(tmp_path, "01_first", ['{"a":', " 1}\n"])  # a stream may come in pieces
    executed(tmp_path, "02_second", ["{}"], tags=())
    executed(tmp_path, "draft", ['{"a": 2}'])
    assert read(tmp_path) == {"01_first": {"a": 1}}
    assert read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("printed", [[], ["1.5"], ["a warning\n", '{"a": 1}']])
def test_a_cell_that_recorded_nothing_is_an_error(tmp_path, printed):
    executed(tmp_path, "01_first", printed)
    with pytest.raises(ValueError, match=r"01_first.ipynb: no ledger can be read from it"):
        read(tmp_path)


def claim(**changes):
    settings = {
        "name": "small",
        "claim": "it is small",
        "source": "paper",
        "ran": "once",
        "chapter": "01_first",
        "figure": "fig-one",
        "number": lambda v: f"{v['x']:.1f}",
        "verdict": lambda v: Verdict.HOLDS if v["x"] < 1 else Verdict.FAILS,
    }
    return Claim(**settings | changes)


@pytest.mark.parametrize(("x", "verdict"), [(0.5, Verdict.HOLDS), (2.0, Verdict.FAILS)])
def test_the_verdict_follows_the_number(x, verdict):
    row = claim().judge({"01_first": {"x": x}})
    assert (row.number, row.verdict, row.ran) == (f"{x:.1f}", verdict, True)
    said = f"**{verdict.value}**"
    assert row.cells == ("it is small", "paper", "once", f"{x:.1f}", said, "{numref}`fig-one`")


def test_a_condition_is_named_where_the_verdict_is_conditional():
    conditional = claim(condition="on Sundays", verdict=lambda v: list(Verdict)[v["x"]])
    rows = [conditional.judge({"01_first": {"x": place}}) for place in range(4)]
    assert [row.verdict for row in rows] == list(Verdict)[:4]
    assert ["on Sundays" in row.cells[4] for row in rows] == [False, True, False, False]
    assert rows[1].cells[4] == "**holds with a condition**: on Sundays"


def test_what_did_not_run_is_open_and_links_nowhere():
    absent = claim().judge({"02_second": {"x": 1}})
    assert absent.verdict is Verdict.OPEN and "`01_first` is not in this build" in absent.number
    partly = claim().judge({"01_first": {"y": 1}})
    assert partly.verdict is Verdict.OPEN and "`01_first` recorded no 'x'" in partly.number
    nowhere = claim(chapter="").judge({})
    assert nowhere.verdict is Verdict.OPEN and nowhere.number == "–"
    assert all("numref" not in "".join(row.cells) for row in (absent, partly, nowhere))


def test_spreads_in_words():
    assert mean_spread([1.0, 2.0, 3.0]) == "2.0\xa0±\xa01.0 (3 draws)"
    assert mean_spread([91.234], ".1f", "%") == "91.2% (one draw)"
    assert span([0.2, -1, 3], ".1f") == "-1.0 to 3.0"
    assert span([0.501, 0.502], ".1f") == "0.5"
    assert span([-0.001, 0.001], ".1f") == "0.0" and span([-0.2, -0.04], ".1f") == "-0.2 to 0.0"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([60.97, 61.87], "61.4±0.6"),
        ([0.005515, 0.005545], "0.005530±0.000021"),
        ([10, 250, 400], "220±197"),
        ([97.5, 97.5], "97.50±0.00"),
        ([0.1 + 0.2, 0.3], "0.30±0.00"),
    ],
)
def test_mean_and_spread_have_digits_to_one_place(values, said):
    found, _, draws = mean_spread(values, ".2f").partition(" (")
    assert found.replace("\xa0", "") == said and draws == f"{len(values)} draws)"


draws = st.lists(st.floats(0, 100).map(lambda value: round(value, 3)), min_size=2, max_size=6)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(draws, draws)
def test_a_loss_is_judged_by_its_interval(reference, other):
    lost = Loss.of(reference, other)
    if len(set(reference)) > 1 or len(set(other)) > 1:
        test = ttest_ind(reference, other, equal_var=False)
        low, high = test.confidence_interval(0.9)
        assert lost.points - lost.margin == pytest.approx(low, rel=1e-6, abs=1e-6)
        assert lost.points + lost.margin == pytest.approx(high, rel=1e-6, abs=1e-6)
    ends = lost.points - lost.margin, lost.points + lost.margin
    # All alike but for rounding is neither.
    if lost.margin > 1e-9:
        assert lost.below(ends[0] - 1) is False and lost.below(ends[1] + 1) is True
        assert lost.below(lost.points) is None
    assert Loss.of(other, reference).points == -lost.points


def test_one_draw_tells_nothing():
    assert Loss.of([90.0], [10.0, 11.0]).below(0.3) is None
    assert Loss.of([90.0, 90.0], [80.0, 80.0]).below(0.3) is False
    assert Loss.of([90.0, 90.0], [90.0, 90.0]).below(0.3) is True
    with pytest.raises(ValueError, match="reference and other must each hold a draw"):
        Loss.of([1.0], [])
    with pytest.raises(ValueError, match="allowed must be finite"):
        Loss.of([1.0, 2.0], [1.0, 2.0]).below(np.nan)


# --- the claims of the ledger's chapter, judged by other numbers than those of this build

LEDGER = Path(__file__).parents[1] / "notebooks/23_ledger.ipynb"


def claims():
    """The chapter's claims: what its cells define up to the one that names them."""
    namespace = {}
    for cell in nbformat.read(LEDGER, as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            if re.search(r"\bread\(", cell.source):
                cell.source = "recorded = {}"
            exec(cell.source, namespace)
        if "CLAIMS = [" in cell.source:
            return namespace["CLAIMS"]


def others(value):
    """Other values of the same form."""
    if isinstance(value, dict):
        draws = [{"other": [0.1, 0.1]}, {"other": [9.0, 9.0]}] if not value else []
        return draws + [
            dict(zip(value, new, strict=True))
            for new in zip(*map(others, value.values()), strict=False)
        ]
    if isinstance(value, list):
        if not value:
            return [["other"]]
        found = list(map(list, zip(*map(others, value), strict=False)))
        # A single draw tells nothing, whatever it is; two alike tell all.
        return found + [new * 2 for new in found if len(new) == 1]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [0.0, 1.0, 1e-12, 1e3 * value, -1e3 * value, 100.0, -1.0]
    return [value]


def variants(values):
    """The values with one of them changed, or one entry of one that is a dict."""
    for key, value in values.items():
        yield from (values | {key: new} for new in others(value))
        if isinstance(value, dict):
            inner = (value | {k: new} for k in value for new in others(value[k]))
            yield from (values | {key: new} for new in inner)


def test_no_verdict_is_typed(smoke_book):
    recorded = read(smoke_book / "book/notebooks")
    for claim in claims():
        if not claim.chapter:
            continue
        values = recorded[claim.chapter]
        # A record that has not been made yet holds what the chapter itself does.
        values |= {key: dict(values) for key, value in values.items() if value is None}
        verdicts = {claim.judge({claim.chapter: v}).verdict for v in [values, *variants(values)]}
        assert len(verdicts - {Verdict.OPEN}) > 1, claim.name
        assert claim.rule, claim.name
        assert claim.condition or Verdict.CONDITION not in verdicts, claim.name

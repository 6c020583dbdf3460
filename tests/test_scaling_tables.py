"""Tables: what is read, and that every fault is named by file, line and column with its repair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olm.errors import InputError
from olm.scaling.problem import wrong_unit
from olm.scaling.tables import read_table, split_pairs

GOOD = "N,D,loss\n1e8,2e9,3.0\n2e8,4e9,2.8\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        "\ufeff" + GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        'loss,note,params,TOKENS\n3.0,"a, b",1e8,2e9\n\n2.8,,2e8,4e9\n',
        "N,flops,val_loss\n1e8,1.2e18,3.0\n2e8,4.8e18,2.8",
        "C,D,L\n1.2e18,2e9,3.0\n4.8e18,4e9,2.8\n",
    ],
    ids=["plain", "CRLF", "CR", "BOM", "semicolons", "tabs", "aliases", "D from C", "N from C"],
)
def test_every_form_of_a_table_gives_the_same_numbers(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    table = read_table(file)
    assert table["N"] == pytest.approx([1e8, 2e8], rel=1e-14)
    assert table["D"] == pytest.approx([2e9, 4e9], rel=1e-14)
    assert table["loss"].tolist() == [3.0, 2.8] and len(table) == 2


def test_compute_follows_from_its_convention(file: Path) -> None:
    file.write_text(GOOD)
    assert read_table(file, ["C", "loss"])["C"] == pytest.approx([1.2e18, 4.8e18])
    assert read_table(file, ["C", "loss"], flops_per_token=3)["C"] == pytest.approx([0.6e18, 2.4e18])
    assert read_table(file, ["C", "loss"]).derived == ("C",)


def test_a_mapping_and_a_filter_choose_columns_and_rows(file: Path) -> None:
    file.write_text("a,b,loss,other,set,seed\n1e8,2e9,broken,3.0,x,1\n2e8,4e9,9,2.8,y,1.0\n3e8,4e9,9,2.7,y,2\n")
    table = read_table(file, columns={"N": "a", "D": "b", "loss": "other"}, where={"set": "y", "seed": "1"})
    assert (table["N"].tolist(), table["loss"].tolist(), table.lines.tolist()) == ([2e8], [2.8], [3])


def test_lines_are_counted_through_quoted_line_breaks(file: Path) -> None:
    file.write_text('N,D,loss,note\n1e8,2e9,3,"two\nlines"\n\n2e8,4e9,2.8,\n')
    assert read_table(file).lines.tolist() == [2, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        ("N,D,loss\n", ["no rows"]),
        ("N,loss\n1e8,3\n", ["no column D", "N, loss", "--columns D=NAME", "C = 6 N D"]),
        ("N,D\n1e8,3e9\n", ["no column loss", "N, D", "--columns loss=NAME"]),
        (GOOD + "3e8,abc,2.7\n", ["line 4", "column D", "'abc' is not a number", "remove the row"]),
        (GOOD + '"3,000,000",1e9,2.7\n', ["line 4", "column N", "write 3000000"]),
        (GOOD + "3e8,,2.7\n", ["line 4", "column D", "empty"]),
        ("N;D;loss\n1e8;2e9;2,8283\n", ["line 2", "column loss", "write 2.8283"]),
        ("N,D,loss\n44,1e9,3\n16183,3e11,2\n", ["line 3", "N is at most 16183", "not millions or billions"]),
        (GOOD + "3e8,1e9,-2.7\n", ["line 4", "column loss", "-2.7", "above 0"]),
        (GOOD + "0,1e9,2.7\n", ["line 4", "column N", "above 0"]),
        (GOOD + "3e8,1e9,nan\n", ["line 4", "column loss", "not finite"]),
        (GOOD + "3e8,1e9\n", ["line 4", "2 cells", "3"]),
        (GOOD + '3e8,1e9,"2.7\n', ["line 4", "quotation marks"]),
        ("N,D,loss,loss\n1e8,2e9,3,3\n", ["2 columns are named loss", "rename"]),
        ("params,model_size,D,loss\n1e8,1e8,2e9,3\n", ["params or model_size", "--columns N=NAME"]),
        ("N,D,loss\n0.1,2e9,3\n7,2e9,2\n", ["line 3", "N is at most 7", "not millions or billions"]),
        ("N,C,loss\n1e8,12,3\n", ["line 2", "D is at most", "unit of C"]),
    ],
)
def test_a_fault_is_named_in_one_line(file: Path, text: str, words: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_table(file)
    message = str(error.value)
    assert "runs.csv" in message and "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_faults_of_the_arguments_are_named(file: Path) -> None:
    file.write_text("N,D,loss,seed\n1e8,2e9,3,0\n")
    for options, words in (
        ({"columns": {"N": "pramas"}}, "no column pramas, which --columns N=pramas names"),
        ({"columns": {"loss": "los"}}, "did you mean loss?"),
        ({"columns": {"los": "loss"}}, "--columns los=loss: nothing here is called los: name N, D, loss, C"),
        ({"where": {"sed": "0"}}, "did you mean seed?"),
        ({"where": {"seed": "5"}}, "no row with seed = 5: column seed holds 0"),
    ):
        with pytest.raises(InputError) as error:
            read_table(file, **options)
        assert words in str(error.value)
    with pytest.raises(InputError, match="cannot read"):
        read_table(file.with_name("absent.csv"))
    with pytest.raises(InputError, match="cannot read"):
        read_table(file.parent)
    file.write_bytes(b"N,D,loss\n1e8,2e9,\xff\n")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_table(file)
    for bad in ("N", "=x", "N=", "N=a,,"):
        with pytest.raises(InputError, match="write --columns NAME=VALUE"):
            split_pairs([bad], "--columns")


def test_columns_that_may_be_zero_are_read(file: Path) -> None:
    file.write_text("N,D,r,loss\n1e8,2e9,0,3.0\n")
    assert read_table(file, ["N", "D", "r", "loss"], positive=["N", "D", "loss"])["r"].tolist() == [0.0]
    with pytest.raises(InputError, match="column r"):
        read_table(file, ["N", "D", "r", "loss"])


def test_columns_that_nobody_wants_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N,step,loss,D,compute,flops\n1e6,10,3.0,,8xA100,x\n1e7,20,2.5,,8xA100,y\n", encoding="utf-8")
    table = read_table(path, ["N", "S", "loss"])
    assert table["S"].tolist() == [10, 20]
    with pytest.raises(InputError, match="column D: the cell is empty"):
        read_table(path, ["N", "D", "loss"])


def test_labels_need_not_be_numbers_and_a_letter_counts_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N,d,flops,loss,run\n1e8,512,6e17,3.0,a\n1e8,512,6e18,2.9,2.0\n", encoding="utf-8")
    table = read_table(path, ["N", "D", "loss", "run"], labels=["run"])
    assert table["run"].tolist() == ["a", 2] and table["D"].tolist() == [1e9, 1e10] and table.derived == ("D",)


def test_unique_tokens_in_another_unit_are_noticed() -> None:
    columns = {"N": np.array([1e8, 1e9]), "D": np.array([1e10, 1e11]), "U": np.array([25e3, 100e3])}
    name, row, why = wrong_unit(columns)
    assert (name, row) == ("U", 1) and "times in the median row" in why
    assert wrong_unit({**columns, "U": columns["U"] * 1e6}) is None

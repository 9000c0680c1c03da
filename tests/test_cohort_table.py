"""Cohorts as tables list them."""

from __future__ import annotations

import gzip
import os
import warnings
from pathlib import Path

import pytest

from l2rfast.errors import InputError, InputWarning
from l2rfast.methods.cohort.listed import Listed
from l2rfast.methods.cohort.table import read_table

NAMES = ("fixed", "moving", "fixed-labels", "weight", "window", "rate", "outside", "init", "jacobian")


def listed(file: Path) -> list[Listed]:
    return read_table(
        "PAIRS",
        file,
        NAMES,
        ("fixed", "moving", "weight"),
        flags=("jacobian",),
        paths=("fixed", "moving", "fixed-labels"),
    )


def read(folder: Path, text: str, *, name: str = "pairs.csv", encoding: str = "utf-8") -> list[Listed]:
    (folder / name).write_text(text, encoding=encoding, newline="")
    return listed(folder / name)


def test_rows_are_options(tmp_path: Path) -> None:
    text = (
        "id,Fixed,MOVING,fixed_labels,window,jacobian\ns1,t.nii.gz,/a/b.nii.gz,l/t.nii.gz,7,yes\ns2,,~/c.nii,n/a,NA,0\n"
    )
    assert read(tmp_path, text) == [
        Listed(
            "s1",
            {
                "fixed": (f"{tmp_path}/t.nii.gz",),
                "moving": ("/a/b.nii.gz",),
                "fixed-labels": (f"{tmp_path}/l/t.nii.gz",),
                "window": ("7",),
                "jacobian": ("true",),
            },
            f"{tmp_path}/pairs.csv, line 2",
        ),
        Listed("s2", {"moving": (f"{tmp_path}/~/c.nii",), "jacobian": ("false",)}, f"{tmp_path}/pairs.csv, line 3"),
    ]


def test_paths_are_absolute_wherever_the_table_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(tmp_path, "moving\na.nii\n")
    monkeypatch.chdir(tmp_path)
    (pair,) = listed(Path("pairs.csv"))
    assert pair.options["moving"] == (os.path.join(tmp_path, "a.nii"),)
    assert pair.where == "pairs.csv, line 2"


@pytest.mark.parametrize(
    "text",
    [
        "moving,weight\na.nii;b.nii,1; 0.5\n",
        "moving,moving,weight,weight\na.nii,b.nii,1,0.5\n",
        "moving;weight;weight\n'a.nii;b.nii';1;0.5\n".replace("'", '"'),
        "moving\tweight\tmoving\na.nii\t1;0.5\tb.nii\n",
        "\ufeff# of May\r\nmoving,weight,,\r\n\r\na.nii;b.nii,1;0.5,,\r\n , ,\r\n#x.nii,1\r\n",
        'sep=;\nmoving;weight\n"a.nii ; b.nii";"1;0.5"',
        "moving,weight,weight,fixed-labels\na.nii;b.nii,1;0.5\n",
    ],
)
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "PAIRS.TSV"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_several_values_and_what_spreadsheets_write(text: str, name: str, encoding: str, tmp_path: Path) -> None:
    text = text if encoding == "utf-8" else text.removeprefix("\ufeff")
    (pair,) = read(tmp_path, text, name=name, encoding=encoding)
    assert pair.options == {"moving": (f"{tmp_path}/a.nii", f"{tmp_path}/b.nii"), "weight": ("1", "0.5")}


def test_values_that_look_like_nothing_are_values(tmp_path: Path) -> None:
    (pair,) = read(tmp_path, "moving,init,outside\na.nii,none,nan\n")
    assert (pair.options["init"], pair.options["outside"]) == (("none",), ("nan",))


@pytest.mark.parametrize(
    ("moving", "ids"),
    [
        (("a/x.nii.gz", "b/y.mgz"), ["x", "y"]),
        (("a/x.nii.gz;b/z.nii", "b/y.mgz"), ["x", "y"]),
        (("x_1.5T.nii", "series"), ["x_1.5T", "series"]),
        (("a/x.nii", "b/X.nii"), ["0001", "0002"]),
        (("a/x y.nii", "b/y.nii"), ["0001", "0002"]),
        (("a/.nii", "b/y.nii"), ["0001", "0002"]),
        (["x.nii"] * 10_000, [f"{i:05}" for i in range(1, 10_001)]),
    ],
)
def test_ids_are_made(moving: list[str], ids: list[str], tmp_path: Path) -> None:
    assert [pair.id for pair in read(tmp_path, "\n".join(["moving", *moving]))] == ids


def test_own_columns_are_said_once(tmp_path: Path) -> None:
    with pytest.warns(InputWarning) as caught:
        read(tmp_path, "participant_id,moving,Age,date,,sex\n1,a.nii,7,x,,f\n2,b.nii,9,x,u,m\n")
    said = f"PAIRS: not used of {tmp_path}/pairs.csv: participant_id, Age, date and 2 more"
    assert [str(warning.message) for warning in caught] == [said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed_label,moving\na,b\n", "{}, line 1: expected .*, got 'fixed_label'; did you mean fixed-labels?"),
        ("moving,fixed,fixed.1\na,b,c\n", "{}, line 1: expected .*, got 'fixed.1'; did you mean fixed?"),
        ("\nmoving,window,Window\na,1,2\n", "{}, line 2: expected each column once, got window 2 times"),
        ("id,ID,moving\na,b,c\n", "{}, line 1: expected each column once, got id 2 times"),
        ("moving,window\na,1,2\n", "{}, line 2: expected 2 cells, .*, got 3: "),
        ("moving,window\na,1\nn/a,1\n", "{}, line 3: expected a moving image, got "),
        ("moving,weight\na,1;;2\n", "{}, line 2: expected values of weight with ; between, got '1;;2'"),
        ("moving,jacobian\na,maybe\n", "{}, line 2: expected 1, true, yes, or 0, false, no of jacobian, got 'maybe'"),
        ("moving,fixed\n", "PAIRS: expected a row for each pair, got none in {}"),
        ("", r"PAIRS: expected columns .*moving among them, got \[\] in {}"),
        ("fixed,source\na,b\n", r"PAIRS: expected columns .*moving among them, got \['fixed,source'\] in {}"),
        ('moving,window\na,1\n"b,1\nc,1\n', "PAIRS: cannot read {}: line 3: unexpected end of data"),
        ("moving\na\0b\n", r"PAIRS \({}\): expected a table, in UTF-8 .*, but the file is of another kind"),
        ("id,moving\nx,a\nX,b\n", "{}, line 3: expected an id of its own, got 'X' as {}, line 2"),
        *(
            (f"moving,id\na,{bad}\n", f"{{}}, line 2: expected an id of letters.*, got '{bad}'")
            for bad in ("..", "a/b", "-a", ".a", "", "n/a", "a b", "é" * 101)
        ),
    ],
)
def test_what_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said.replace("{}", str(tmp_path / "pairs.csv"))) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("moving\na\n".encode("utf-16-le"), "the file is of another kind"),
        (b"moving\n\xff.nii\n", "the file is of another kind"),
        (gzip.compress(b"moving", mtime=0), "the file is of another kind"),  # a test is called by its bytes
        (b"\xff\xfea", "the file is of another kind"),
        (None, "there is no such file"),
    ],
)
def test_what_cannot_be_read_is_said(content: bytes | None, why: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        listed(file)
    expected = f"PAIRS ({file}): expected a table, in UTF-8 or in UTF-16 with a byte order mark"
    assert str(caught.value) == f"{expected}, but {why}"


def test_nothing_is_said_of_a_table_that_is_used_as_a_whole(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(tmp_path, "moving,window,\na.nii,5,\n")) == 1

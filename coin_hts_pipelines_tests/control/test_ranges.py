"""Sets of keys as rectangles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coin_hts_pipelines.control.ranges import Box, cut_into_boxes

SYMBOLS, YEARS = ["A", "B", "C", "D"], ["2022", "2023", "2024"]


def keys(text: str) -> set[tuple[str, str]]:
    """Read `A22 A23 C24`."""
    return {(part[0], f"20{part[1:]}") for part in text.split()}


@pytest.mark.parametrize(
    ("wanted", "corners"),
    [
        ("", []),
        ("B23", [("B23", "B23")]),
        ("A22 A23 A24 B22 B23 B24 C22 C23 C24 D22 D23 D24", [("A22", "D24")]),
        ("A22 A23 B22 B23", [("A22", "B23")]),
        # A hole in the rows, a hole in the columns.
        ("A22 A23 C22 C23", [("A22", "A23"), ("C22", "C23")]),
        ("A22 A24 B22 B24", [("A22", "B22"), ("A24", "B24")]),
        # An L is two rectangles either way.
        ("A22 B22 B23", [("A22", "A22"), ("B22", "B23")]),
        # One row is longer: joined along the columns it is two, along the rows three.
        ("A23 B22 B23 B24 C23", [("A23", "A23"), ("B22", "B24"), ("C23", "C23")]),
        ("A22 B22 C22 D22 B23 B24", [("A22", "D22"), ("B23", "B24")]),
        ("A22 B23 C24", [("A22", "A22"), ("B23", "B23"), ("C24", "C24")]),
    ],
)
def test_known_shapes(wanted: str, corners: list[tuple[str, str]]) -> None:
    boxes = cut_into_boxes(keys(wanted), SYMBOLS, YEARS)
    assert sorted((box.first[0] + box.first[1][2:], box.last[0] + box.last[1][2:]) for box in boxes) == sorted(corners)


def test_stored_order_decides_what_is_contiguous() -> None:
    # B was registered last, so A and C are neighbours in Dagster's eyes.
    wanted = [("A", "2024"), ("C", "2024")]
    assert cut_into_boxes(wanted, ["A", "C", "B"], ["2024"]) == [Box(wanted[0], wanted[1], tuple(wanted))]
    assert len(cut_into_boxes(wanted, ["A", "B", "C"], ["2024"])) == 2


def test_a_key_that_is_not_stored_is_an_error() -> None:
    with pytest.raises(KeyError):
        cut_into_boxes([("E", "2024")], SYMBOLS, YEARS)


@given(
    wanted=st.sets(st.tuples(st.sampled_from("abcdefg"), st.sampled_from("123456"))),
    first=st.permutations("abcdefg"),
    second=st.permutations("123456"),
)
def test_boxes_are_disjoint_contiguous_and_exact(
    wanted: set[tuple[str, str]], first: list[str], second: list[str]
) -> None:
    boxes = cut_into_boxes(wanted, first, second)
    covered = [key for box in boxes for key in box.keys]
    assert len(covered) == len(set(covered))
    assert set(covered) == wanted
    for box in boxes:
        rows = first[first.index(box.first[0]) : first.index(box.last[0]) + 1]
        columns = second[second.index(box.first[1]) : second.index(box.last[1]) + 1]
        assert list(box.keys) == [(row, column) for row in rows for column in columns]
        assert rows
        assert columns


@given(
    rows=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted),
    columns=st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted),
)
def test_a_rectangle_stays_one_box(rows: list[int], columns: list[int]) -> None:
    first, second = list("abcdefg"), list("123456")
    wanted = {(a, b) for a in first[rows[0] : rows[1] + 1] for b in second[columns[0] : columns[1] + 1]}
    assert len(cut_into_boxes(wanted, first, second)) == 1

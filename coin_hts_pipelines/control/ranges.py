"""Sets of two-dimensional partition keys as the rectangles Dagster can run in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle: inclusive first and last key of each dimension, and the keys inside."""

    first: tuple[str, str]
    last: tuple[str, str]
    keys: tuple[tuple[str, str], ...]


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for position in sorted(positions):
        if runs and position == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((position, position))
    return runs


def _cut(cells: set[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Rectangles (rows a..b, columns c..d): equal runs of neighbouring rows are joined."""
    by_row: dict[int, list[int]] = {}
    for row, column in cells:
        by_row.setdefault(row, []).append(column)
    open_boxes: dict[tuple[int, int], tuple[int, int]] = {}
    boxes: list[tuple[int, int, int, int]] = []
    for row in sorted(by_row):
        runs = _runs(by_row[row])
        for run, (first, last) in list(open_boxes.items()):
            if run not in runs or last != row - 1:
                boxes.append((first, last, *run))
                del open_boxes[run]
        for run in runs:
            open_boxes[run] = (open_boxes[run][0], row) if run in open_boxes else (row, row)
    boxes += [(first, last, *run) for run, (first, last) in open_boxes.items()]
    return sorted(boxes)


def cut_into_boxes(
    keys: Iterable[tuple[str, str]], first_dimension: Sequence[str], second_dimension: Sequence[str]
) -> list[Box]:
    """Cut a set of keys into rectangles that are contiguous in the stored order of both dimensions.

    A range in Dagster runs from one key to another in *stored* order along each dimension, so whatever lies between
    is run too; joining along either dimension is tried and the smaller number of rectangles taken.
    """
    rows = {key: i for i, key in enumerate(first_dimension)}
    columns = {key: i for i, key in enumerate(second_dimension)}
    cells = {(rows[first], columns[second]) for first, second in keys}
    by_rows = _cut(cells)
    by_columns = [(c, d, a, b) for a, b, c, d in _cut({(column, row) for row, column in cells})]
    chosen = min(by_rows, by_columns, key=len)
    return [
        Box(
            (first_dimension[a], second_dimension[c]),
            (first_dimension[b], second_dimension[d]),
            tuple((first_dimension[i], second_dimension[j]) for i in range(a, b + 1) for j in range(c, d + 1)),
        )
        for a, b, c, d in chosen
    ]

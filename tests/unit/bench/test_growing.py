"""Growth as one exponent, and its charts."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.growing import charts, exponent
from tests.bench.growth import upto
from tests.bench.svg import HEIGHT, WIDTH, Panel, ceiling, draw

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_the_exponent_of_a_power_is_found(power: float, factor: float) -> None:
    points = [(x, factor * x**power) for x in (10.0, 100.0, 1000.0, 5000.0)]
    assert exponent(points) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("points", [[], [(10, 1)], [(10, 1), (10, 2)], [(10, 0), (20, 1)]])
def test_points_without_an_exponent_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two different counts"):
        exponent(points)


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_at_a_round_number_that_is_not_far(value: float) -> None:
    top = ceiling(value)
    assert value <= top * (1 + 1e-6)
    assert top <= value * 2.5 * (1 + 1e-6)
    assert round(top / 10 ** math.floor(math.log10(top) + 1e-9), 6) in (1, 2, 5, 10)


def test_a_chart_has_a_mark_for_each_point_inside_its_frame() -> None:
    points = ((10.0, 3.0), (1000.0, 9.0), (100.0, 0.0))
    root = ElementTree.fromstring(draw([Panel("CPU <ms>", "runs & more", points)]))
    marks = root.findall(f".//{SVG}circle")
    places = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in marks]
    assert len(places) == 3
    assert [x for x, _ in places] == sorted(x for x, _ in places), "drawn from left to right"
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    assert places[0][1] > places[2][1], "more is higher"
    # Logarithmic: ten to a hundred is as far as a hundred to a thousand.
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert {"CPU <ms>", "runs & more"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_charts_stand_in_rows() -> None:
    panel = Panel("a", "b", ((1.0, 1.0),))
    root = ElementTree.fromstring(draw([panel] * 4, columns=3))
    assert (root.attrib["width"], root.attrib["height"]) == (str(3 * WIDTH), str(2 * HEIGHT))
    assert [group.attrib["transform"] for group in root.iter(f"{SVG}g")][3] == f"translate(0 {HEIGHT})"


@pytest.mark.parametrize("points", [(), ((0.0, 1.0),)])
def test_a_chart_without_points_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="empty: points"):
        draw([Panel("empty", "x", points)])


def test_an_axis_that_was_not_measured_has_no_charts() -> None:
    point = {"steps_per_second": 30.0, "cpu_ms_per_step": 4.0, "memory_mib": 100.0}
    growth = {"concurrent": [{"runs": 10, **point}, {"runs": 100, **point}], "finished": []}
    root = ElementTree.fromstring(charts(growth))
    assert len(root.findall(f"{SVG}g")) == 3


@pytest.mark.parametrize(("most", "found"), [(5000, [10, 5000]), (10, [10]), (7, [7]), (0, [])])
def test_the_points_of_an_axis_end_at_its_maximum(most: int, found: list[int]) -> None:
    assert upto((10, 5000, 9000), most) == found

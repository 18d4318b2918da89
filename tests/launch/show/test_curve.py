"""A curve as SVG."""

import math
import re
from xml.etree import ElementTree

from launch.show.curve import HEIGHT, WIDTH, curve_svg


def path_of(svg: str) -> str:
    found = re.search(r' d="([^"]*)"', svg)
    assert found is not None
    return found[1]


def test_what_is_lower_is_drawn_lower_and_all_of_it_within_the_picture():
    svg = curve_svg("Loss & more", [1, 2, 3], [9.0, 5.0, 7.0])
    ElementTree.fromstring(svg)
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path_of(svg))[1:]]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert 0 < x1 < x2 < x3 < WIDTH
    assert 0 < y1 < y3 < y2 < HEIGHT
    assert "Loss &amp; more" in svg
    assert ">9<" in svg
    assert ">5<" in svg


def test_where_there_is_no_number_the_line_is_broken():
    path = path_of(curve_svg("x", range(5), [1.0, 2.0, None, math.nan, 3.0]))
    assert re.sub("[^ML]", "", path) == "MLM"


def test_one_value_or_none_is_drawn_too():
    assert path_of(curve_svg("x", [7], [0.0])).startswith("M")
    assert "nothing is recorded" in curve_svg("x", [1], [None])

"""Numbers as people read them."""

from launch.units import human


def test_numbers_are_said_with_three_digits_and_a_prefix() -> None:
    assert [human(n) for n in (0, 999, 1_234_567, 4.2e21)] == ["0 ", "999 ", "1.23 M", "4.2 Z"]

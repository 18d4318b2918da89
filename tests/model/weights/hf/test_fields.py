"""Values out of config.json."""

import pytest

from model.weights.hf.errors import HFFormatError
from model.weights.hf.fields import is_value, positive_int, positive_number, require_values


def test_null_and_nothing_are_the_default_of_a_whole_number() -> None:
    assert positive_int({"layers": None}, "layers", 3) == positive_int({}, "layers", 3) == 3
    with pytest.raises(HFFormatError, match=r"^config\.json layers=None: give a positive whole number$"):
        positive_int({}, "layers")


def test_a_number_is_never_null() -> None:
    assert positive_number({}, "eps", 1e-6) == 1e-6
    assert positive_number({"eps": 1}, "eps", 1e-6) == 1.0
    with pytest.raises(HFFormatError, match=r"^config\.json eps=None: give a number above 0$"):
        positive_number({"eps": None}, "eps", 1e-6)


def test_true_is_not_one() -> None:
    assert is_value(1, 1.0)
    assert not is_value(True, 1.0)
    require_values({"dropout": 0}, {"dropout": 0.0, "bias": False})
    with pytest.raises(HFFormatError, match=r"^config\.json dropout=False: this model has 0\.0; such a checkpoint can't be imported$"):
        require_values({"dropout": False}, {"dropout": 0.0})

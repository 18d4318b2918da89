"""A Hugging Face directory becomes a module."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.weights.hf.pretrained import load_pretrained
from tests.model.weights.hf.small_models import written


def test_a_loaded_module_has_logits_of_its_dtype(tmp_path: Path) -> None:
    module = load_pretrained(str(written(tmp_path / "hf")), device="cpu", dtype=torch.bfloat16)
    logits_BTX = module(torch.tensor([[1, 2, 3]]))
    assert logits_BTX.shape == (1, 3, 40)
    assert logits_BTX.dtype == torch.bfloat16


def test_a_loaded_module_can_be_trained(tmp_path: Path) -> None:
    module = load_pretrained(written(tmp_path / "hf"))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, None])
def test_what_is_no_dtype_of_numbers_is_one_line(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no torch\.dtype of floating-point numbers; use torch\.bfloat16 or torch\.float32$"):
        load_pretrained(written(tmp_path / "hf"), dtype=dtype)

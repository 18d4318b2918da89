"""Predicted memory against what steps of small models really take."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.memory import SMALL, Mode, compare, is_close, main
from model.parallel.config import ParallelConfig
from model.presets import HYBRID, OLMO3
from tests.model.gloo_world import run_in_world

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("pattern", "mode"), [(HYBRID, "none"), (HYBRID, "selective"), (HYBRID, "full"), (OLMO3, "none"), (OLMO3, "full"), ("gdn", "none")]
)
def test_a_step_takes_what_is_predicted(pattern: str, mode: Mode) -> None:
    config = replace(SMALL, layer_pattern=pattern)
    compared = compare(config, ParallelConfig(), mode, device=CPU, dtype=torch.float32, rows=2, seq_len=100)
    assert is_close(compared), compared
    assert compared["parameters"][0] == compared["parameters"][1]
    assert compared["gradients"][0] == compared["gradients"][1]


@pytest.mark.parametrize("mode", ["none", "selective"])
@pytest.mark.parametrize("heads", [(0, 0), (4, 8), (2, 8)], ids=str)
def test_what_is_kept_is_named_and_counted_to_the_hundredth(heads: tuple[int, int], mode: Mode) -> None:
    config = replace(SMALL, layer_pattern=HYBRID, gdn_num_key_heads=heads[0], gdn_num_value_heads=heads[1])
    compared = compare(config, ParallelConfig(), mode, device=CPU, dtype=torch.float32, rows=1, seq_len=512)
    predicted, measured = compared["activations"]
    assert predicted == pytest.approx(measured, rel=0.01)


def test_without_rotary_positions_too() -> None:
    config = replace(SMALL, layer_pattern="attn", rope_theta=0.0)
    compared = compare(config, ParallelConfig(), "none", device=CPU, dtype=torch.float32, rows=1, seq_len=130)
    assert is_close(compared), compared


def test_ranks_of_a_layout_take_what_is_predicted(tmp_path: Path) -> None:
    run_in_world(2, check_layouts, tmp_path / "world")


def check_layouts(directory: Path) -> None:
    cases: list[tuple[dict[str, int], str, Mode, torch.dtype, int]] = [
        ({"dp_shard": 2}, HYBRID, "full", torch.bfloat16, 128),
        ({"dp_shard": 2}, "attn", "none", torch.bfloat16, 16),  # short: the root's gradients are the most
        ({"tp": 2}, HYBRID, "none", torch.bfloat16, 128),
        ({"cp": 2}, HYBRID, "none", torch.float32, 128),
        ({"cp": 2}, "attn", "none", torch.float32, 128),
    ]
    for layout, pattern, mode, dtype, seq_len in cases:
        config = replace(SMALL, layer_pattern=pattern)
        compared = compare(config, ParallelConfig(**layout), mode, device=CPU, dtype=dtype, rows=1, seq_len=seq_len)
        assert is_close(compared), (layout, pattern, mode, compared)


def test_a_prediction_off_by_more_than_a_tenth_is_not_close() -> None:
    assert is_close({"total": (109, 100)})
    assert is_close({"total": (91, 100)})
    assert not is_close({"parameters": (100, 100), "total": (112, 100)})
    assert not is_close({"total": (88, 100)})


def test_the_table_has_every_layout_and_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "olmo_hybrid_7b", "--layout", "dp_shard=128", "--layout", "tp=2,dp_shard=64", "--optimizer", "muon"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("olmo_hybrid_7b\n\ndp_shard 128: 1 × 8192 tokens at once on every GPU; GiB of each GPU\n")
    assert "\n\ndp_shard 64 × tp 2: 1 × 8192 tokens at once on every 2 GPUs; GiB of each GPU\n" in out
    assert [line.split()[0] for line in out.splitlines() if line].count("selective") == 2


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("tp=4", "parallel.tp=4: 30 heads; use 1, 2, 3, 5, 6, 10, 15 or 30\n"),
        ("tp=2,cp=4", "parallel.cp=4: 30 heads, 15 on each rank of parallel.tp=2; use 1, 3, 5 or 15\n"),
        ("dp=8", "--layout dp=8: 'dp=8' is no axis and size; use dp_replicate, dp_shard, cp and tp: tp=2,dp_shard=64\n"),
        ("tp=two", "--layout tp=two: 'tp=two' is no axis and size; use dp_replicate, dp_shard, cp and tp: tp=2,dp_shard=64\n"),
        ("tp=2,tp=5", "--layout tp=2,tp=5: tp is there twice; give each axis once\n"),
        ("tp=0", "parallel.tp=0: must be positive; use 1 or more\n"),
    ],
)
def test_a_wrong_layout_is_one_line(layout: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--layout", layout]) == 2
    assert capsys.readouterr().err == message

"""How a configuration of the delta rule is chosen from what was measured."""

import importlib.util
import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from bench import gdn_configs
from bench.gdn import Sizes
from bench.gdn_configs import KERNELS, Candidate, Kernel, Problem, candidates, choose, entry, main, parse_head_dims, ranking, time_us
from model.kernels.delta_rule.configs import CONFIGS, HOPPER, KernelConfig, Launch
from model.kernels.delta_rule.sizes import TRITON_VALUE_DIMS

ROOT = Path(__file__).parents[2]
OLMO = Sizes(num_heads=30, key_dim=96, value_dim=192)


def one(kernel: Kernel, block: int, warps: int, stages: int = 1) -> Candidate:
    return Candidate(kernel=kernel, value_block=block, launch=Launch(warps=warps, stages=stages))


MEASURED = {
    one("prepare", 0, 4): 130.0,
    one("prepare", 0, 8): 120.0,
    one("forward", 32, 4, 2): 200.0,  # the fastest forward, but of a slow pair
    one("forward", 64, 4, 2): 230.0,
    one("forward", 64, 4, 3): 210.0,
    one("backward", 32, 4, 2): 300.0,
    one("backward", 64, 4, 2): 220.0,
    one("backward", 128, 8, 1): 100.0,  # no forward has such a block
    one("gradients", 64, 8, 2): 310.0,
    one("gradients", 32, 4, 1): 290.0,
}
CHOSEN = KernelConfig(
    scan_value_block=64,
    gradient_value_block=32,
    prepare=Launch(warps=8),
    forward=Launch(warps=4, stages=3),
    backward=Launch(warps=4, stages=2),
    gradients=Launch(warps=4),
)


@pytest.mark.parametrize("value_dim", TRITON_VALUE_DIMS)
def test_only_blocks_that_divide_v_are_tried(value_dim: int) -> None:
    tried = candidates(value_dim)

    assert {candidate.kernel for candidate in tried} == set(KERNELS)
    assert len(set(tried)) == len(tried) <= 67
    blocks = {candidate.value_block for candidate in tried if candidate.kernel != "prepare"}
    assert all(value_dim % block == 0 and block & (block - 1) == 0 for block in blocks)


def test_what_is_tried_is_bounded() -> None:
    def tried(kernel: Kernel) -> set[tuple[int, int, int]]:
        return {(x.value_block, x.launch.warps, x.launch.stages) for x in candidates(128) if x.kernel == kernel}

    prepare = {(x.launch.warps, x.launch.max_registers) for x in candidates(128) if x.kernel == "prepare"}
    assert prepare == {(2, None), (4, None), (8, None), (4, 168), (4, 128)}
    assert tried("forward") == tried("backward") == {(bv, w, s) for bv in (32, 64, 128) for w in (4, 8) for s in (2, 3, 4)}
    assert tried("gradients") == {(bv, w, s) for bv in (32, 64) for w in (4, 8) for s in (2, 3, 4)}


def test_every_configuration_of_the_table_could_have_been_chosen() -> None:
    for (_, _, value_dim), config in CONFIGS.items():
        tried = candidates(value_dim)
        for kernel in KERNELS:
            assert any(candidate.kernel == kernel and candidate.within(config) == config for candidate in tried), (value_dim, kernel)


def test_a_candidate_replaces_only_its_kernels_part() -> None:
    for kernel in KERNELS:
        changed = one(kernel, 16, 2, 5).within(CHOSEN)
        for other in KERNELS:
            assert getattr(changed, other) == (Launch(warps=2, stages=5) if other == kernel else getattr(CHOSEN, other))


def test_the_fastest_of_each_kernel_is_chosen_and_of_the_scans_the_fastest_pair() -> None:
    assert choose(MEASURED) == CHOSEN


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (("prepare",), "prepare_chunks: no candidate is left"),
        (("gradients",), "chunk_gradients: no candidate is left"),
        (("forward",), "the scans in one value block: no candidate is left"),
        (("backward",), "the scans in one value block: no candidate is left"),
    ],
)
def test_a_kernel_without_candidates_is_named(lost: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose({candidate: us for candidate, us in MEASURED.items() if candidate.kernel not in lost})


def test_scans_that_share_no_block_are_named() -> None:
    few = {candidate: us for candidate, us in MEASURED.items() if candidate.kernel != "forward" or candidate.value_block == 32}
    with pytest.raises(ValueError, match="the scans in one value block"):
        choose({candidate: us for candidate, us in few.items() if candidate.kernel != "backward" or candidate.value_block == 64})


@pytest.mark.parametrize(("architecture", "key"), [(HOPPER, (90, 96, 192)), (100, (100, 96, 192))])
def test_the_entry_can_be_pasted(architecture: int, key: tuple[int, int, int]) -> None:
    text = entry(architecture=architecture, sizes=OLMO, config=CHOSEN, times_us=MEASURED, measured_on="NVIDIA H200, torch 2.11.0")

    assert eval(f"{{\n{text}\n}}", {"HOPPER": HOPPER, "KernelConfig": KernelConfig, "Launch": Launch}) == {key: CHOSEN}
    assert "NVIDIA H200, torch 2.11.0, 1 × 8192 tokens, 30 heads × (96, 192)" in text
    assert "prepare 120, forward 210, backward 220, gradients 290 µs" in text
    assert max(map(len, text.splitlines())) <= 140


def test_the_ranking_ends_with_what_dropped_out() -> None:
    lines = ranking(MEASURED, {one("gradients", 64, 8, 3): "OutOfResources: shared memory"}).splitlines()

    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(KERNELS.values())
    assert [line.split() for line in lines[-3:]] == [
        ["290.0", "32", "4", "1"],
        ["310.0", "64", "8", "2"],
        ["-", "64", "8", "3", "OutOfResources:", "shared", "memory"],
    ]


def test_right_candidates_alone_are_timed_and_the_entry_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = one("gradients", 32, 4, 1)
    with_gpu(monkeypatch, {candidate: "out is 3.0e-01 off" if candidate == wrong else "" for candidate in MEASURED})

    assert main(["--head-dims", "96x192"]) == 0

    out = capsys.readouterr().out
    assert "gradient_value_block=64,\n" in out
    assert "32      4       1   out is 3.0e-01 off" in out
    assert "290" not in out


def test_a_shape_without_a_right_candidate_is_a_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu(monkeypatch, dict.fromkeys(MEASURED, ""), broken=128)

    assert main(["--head-dims", "128x128", "96x192"]) == 1

    told = capsys.readouterr()
    assert "1 × 8192 tokens, 32 heads × (128, 128): prepare_chunks: no candidate is left" in told.err
    assert "(HOPPER, 96, 192): KernelConfig(" in told.out


def with_gpu(monkeypatch: pytest.MonkeyPatch, faults: dict[Candidate, str], broken: int = 0) -> None:
    """On which candidates take what MEASURED says; all are broken for one key dim."""

    def find_faults(tried: dict[Sizes, list[Candidate]], device: torch.device) -> dict[Sizes, dict[Candidate, str]]:
        return {sizes: dict.fromkeys(faults, "broken") if sizes.key_dim == broken else faults for sizes in tried}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gdn_configs, "describe_gpu", lambda: "NVIDIA H200")
    monkeypatch.setattr(gdn_configs, "find_faults", find_faults)
    monkeypatch.setattr(gdn_configs, "build_problem", lambda sizes, device: None)
    monkeypatch.setattr(gdn_configs, "time_us", lambda problem, candidate: MEASURED[candidate])


def test_a_kernels_time_is_the_median_of_its_own_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    profiled(monkeypatch, ("scan_forward", 7.0), ("prepare_chunks", 1.0), ("scan_forward", 5.0), ("scan_forward", 6.0))
    assert time_us(NOTHING, one("forward", 64, 4)) == 6.0
    with pytest.raises(RuntimeError, match="saw no chunk_gradients on the GPU; run where CUPTI"):
        time_us(NOTHING, one("gradients", 64, 4))


NOTHING = Problem(parts={}, grad_out=torch.empty(0), config=CHOSEN, kept=(torch.empty(0),) * 5)


def profiled(monkeypatch: pytest.MonkeyPatch, *events: tuple[str, float]) -> None:
    class FakeProfile:
        def __init__(self, activities: list[object]) -> None:
            pass

        def __enter__(self) -> "FakeProfile":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def events(self) -> list[SimpleNamespace]:
            return [
                SimpleNamespace(name=name, device_type=DeviceType.CUDA, time_range=SimpleNamespace(elapsed_us=lambda us=us: us))
                for name, us in events
            ]

    monkeypatch.setattr(gdn_configs, "profile", FakeProfile)
    monkeypatch.setattr(gdn_configs, "run", lambda problem, candidate: {})
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def test_without_a_gpu_there_is_nothing_to_choose_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "there is no CUDA GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["96", "96x", "x192", "24x64", "96x200", "96x192x2", "-96x192", "wide"])
def test_head_dims_without_kernels_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{text!r}: give K of 32 to 128"):
        parse_head_dims(text)


def test_head_dims_come_with_their_models_heads() -> None:
    assert parse_head_dims("96x192") == OLMO
    assert parse_head_dims("128x256") == Sizes(num_heads=32, key_dim=128, value_dim=256)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (torch's CPU build has none)")
@pytest.mark.parametrize("part", ["right", "miscompiled", "side by side"])
def test_candidates_are_compared_with_the_definition(part: str, tmp_path: Path) -> None:
    environment = {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.interpreted_gdn_configs", part]

    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""

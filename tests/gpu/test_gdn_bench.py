"""The benchmark of the delta rule and the choice of its configurations, on a GPU: that they run, not what they find."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gdn import OLMO, layer_works
from bench.gdn_configs import KERNELS, build_problem, candidates, run, time_us
from bench.timing import DeviceStopwatch, gpu_wall_s, medians_s

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's, fla's and the profiler's own
]
ROOT = Path(__file__).parents[2]
SHORT = replace(OLMO, num_tokens=1024)


def test_the_profiler_sees_every_kernel() -> None:
    problem = build_problem(SHORT, torch.device("cuda"))
    for kernel in KERNELS:
        chosen = next(one for one in candidates(192) if one.within(problem.config) == problem.config and one.kernel == kernel)
        assert 0 < time_us(problem, chosen) < 1e5
        assert all(x.isfinite().all() for x in run(problem, chosen).values())


def test_device_time_is_within_wall_time() -> None:
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    both = {
        stopwatch: medians_s({"product": lambda: x @ x}, stopwatch=stopwatch)["product"] for stopwatch in (DeviceStopwatch(), gpu_wall_s)
    }
    device_s, wall_s = both.values()
    assert 1e-5 < device_s < 2 * wall_s  # the former finds an empty cache


def test_the_layer_runs_on_our_kernels() -> None:
    works = layer_works(SHORT, {"ours": "triton"}, d_model=3840, device=torch.device("cuda"), dtype=torch.bfloat16)
    for work in works.values():
        assert all(gradient.isfinite().all() for gradient in work.phase("forward + backward")())


def test_a_case_is_printed() -> None:
    command = [sys.executable, "-m", "bench.gdn", "--case", "128x128"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" ours ") >= 3

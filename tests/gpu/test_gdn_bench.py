"""The benchmark of the delta rule and the choice of its configurations, on a GPU: that they run, not what they find."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.gdn import OLMO, layer_works, make_inputs, measure, rule_work, table
from bench.gdn_configs import KERNELS, build_problem, candidates, run, time_us
from bench.timing import DeviceStopwatch, gpu_wall_s, medians_s
from model.kernels.delta_rule.operator import gated_delta_rule

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's, fla's and the profiler's own
]
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
    """Ours alone: fla tunes for minutes."""
    rule = partial(gated_delta_rule, documents=None, backend="triton")
    work = rule_work(rule, *make_inputs(SHORT, torch.device("cuda"), torch.bfloat16))
    found = measure({"ours": work}, {"device": DeviceStopwatch(), "wall": gpu_wall_s}, rounds=3)
    assert table("a case", found, "-").count(" ours ") == 3

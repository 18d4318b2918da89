"""What the benchmark of the delta rule compares and prints, where there is no GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.gdn import BACKENDS, PHASES, RULES, Sizes, Times, Work, layer_works, main, make_inputs, measure, rule_work, table
from bench.timing import wall_s
from model.kernels.delta_rule.chunked import gated_delta_rule_chunked

CPU = torch.device("cpu")
SIZES = Sizes(num_heads=2, key_dim=32, value_dim=64, num_tokens=70)


def chunked_work() -> Work:
    return rule_work(gated_delta_rule_chunked, *make_inputs(SIZES, CPU, torch.float32))


def raising(message: str) -> Callable[..., Tensor]:
    def rule(**parts: Tensor) -> Tensor:
        raise RuntimeError(message)

    return rule


def failing_backward() -> Work:
    parts, grad_out = make_inputs(SIZES, CPU, torch.float32)

    class Refuses(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, v: Tensor) -> Tensor:
            return v.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            raise RuntimeError("Triton on Hopper gives wrong results\nsee the issue")

    return rule_work(lambda **parts: Refuses.apply(parts["v"]), parts, grad_out)


def test_without_a_gpu_there_is_a_small_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    title, peer, ours = capsys.readouterr().out.splitlines()
    assert title == "gated delta rule, forward + backward, 1 × 256 tokens, 4 heads × (32, 64), cpu"
    assert "1.00 ×" in peer
    assert "chunked, torch" in ours


def test_a_case_of_the_gpu_says_that_it_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "layer"]) == 2
    assert capsys.readouterr().err == "--case layer: there is no CUDA GPU here; leave --case out for the small comparison\n"


def test_the_backward_alone_gives_the_gradients_of_both_together() -> None:
    work = chunked_work()
    alone, again, together = work.phase("backward"), work.phase("backward"), work.phase("forward + backward")
    for run in (alone, alone, again):
        assert all(torch.equal(a, b) for a, b in zip(run(), together(), strict=True))
    assert [gradient.shape for gradient in together()] == [leaf.shape for leaf in work.leaves]


def test_a_peer_that_refuses_one_direction_is_measured_in_the_other() -> None:
    found = measure({"fla": failing_backward(), "ours": chunked_work()}, {"device": wall_s, "wall": wall_s}, rounds=1)

    assert tuple(found) == PHASES
    assert found["forward"].failures == {}
    assert list(found["forward"].seconds["device"]) == ["fla", "ours"]
    for phase in PHASES[1:]:
        assert found[phase].failures == {"fla": "RuntimeError: Triton on Hopper gives wrong results"}
        assert list(found[phase].seconds["wall"]) == ["ours"]


def test_every_figure_stands_beside_its_ratio_to_the_peer() -> None:
    found = {
        "forward": Times(seconds={"device": {"fla": 2e-3, "ours": 5e-4}, "wall": {"fla": 3e-3, "ours": 2e-3}}, failures={}),
        "backward": Times(seconds={"device": {"ours": 1e-3}, "wall": {"ours": 1e-3}}, failures={"fla": "RuntimeError: no"}),
    }
    assert table("a case", found, "at most 1 ms").splitlines() == [
        "a case",
        "  forward             fla                         2.000 ms device  1.00 ×     3.000 ms wall  1.00 ×",
        "  forward             ours                        0.500 ms device  4.00 ×     2.000 ms wall  1.50 ×",
        "  backward            ours                        1.000 ms device             1.000 ms wall",
        "  backward            fla                    RuntimeError: no",
        "  wanted of ours, forward + backward: at most 1 ms",
    ]


def test_nothing_that_runs_is_still_a_table() -> None:
    rule = rule_work(raising(""), *make_inputs(SIZES, CPU, torch.float32))
    found = measure({"fla": rule, "ours": rule}, {"device": wall_s}, rounds=1)
    assert table("a case", found, "-").count("RuntimeError:") == 6


def test_the_layer_is_differentiated_by_its_input_and_all_its_parameters() -> None:
    works = layer_works(SIZES, {"fla": "torch", "ours": "torch"}, d_model=64, device=CPU, dtype=torch.bfloat16)

    assert list(works) == ["fla", "ours", "matrix products alone"]
    fla, ours, products = (work.phase("forward + backward")() for work in works.values())
    assert all(torch.equal(a, b) and a.norm() > 0 for a, b in zip(fla, ours, strict=True))
    matrices = [gradient.shape for gradient in ours if gradient.dim() == 2]
    of_gates, a_and_b = torch.Size([SIZES.num_heads, 64]), torch.Size([8, 64])  # two narrow ones are one, filled up
    assert sorted(matrices) == sorted([of_gates] * 2 + [x.shape for x in products if x.dim() == 2 and x.shape != a_and_b])
    assert len(matrices) == 7
    assert [gradient.dtype for gradient in ours].count(torch.float32) == 2  # of the gates' parameters


def test_the_model_that_matters_is_measured_in_every_length() -> None:
    assert list(BACKENDS) == ["fla", "ours"]
    shapes = [(case.sizes.num_rows, case.sizes.num_tokens, case.sizes.num_heads) for case in RULES.values()]
    assert shapes == [(1, 8192, 30), (4, 8192, 30), (1, 65536, 30), (1, 8192, 32), (1, 8192, 32)]

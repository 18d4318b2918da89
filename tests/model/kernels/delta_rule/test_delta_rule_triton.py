"""The delta rule's Triton kernels in Triton's interpreter, so that a machine without a GPU tests their arithmetic; and the rest."""

from pathlib import Path

import pytest
import torch

from model.kernels.delta_rule.configs import CONFIGS, HOPPER, choose_config
from model.kernels.delta_rule.launch import delta_rule_forward, empty_forward
from model.kernels.delta_rule.plan import max_chunks, plan_chunks
from model.kernels.delta_rule.sizes import TRITON_KEY_DIMS, TRITON_VALUE_DIMS
from tests.model.kernels.interpreter import needs_triton, run_interpreted

CPU = torch.device("cpu")


@needs_triton
@pytest.mark.parametrize("group", ["lengths", "head dims", "documents", "groups of value heads", "extreme gates"])
def test_outputs_states_and_gradients_are_those_of_the_definition(group: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.delta_rule.interpreted_delta_rule", group, caches=tmp_path)


@needs_triton
@pytest.mark.parametrize("checks", ["the definition", "what is asked for", "pytorch's rules", "the whole layer"])
def test_the_operator_is_differentiated_compiled_and_packed(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.delta_rule.interpreted_operator", checks, caches=tmp_path)


def test_rows_are_cut_into_chunks_that_end_with_them() -> None:
    plan = plan_chunks(num_rows=2, num_tokens=130, offsets_cpu_P=None, device=CPU)

    assert plan.start_Z.tolist() == [0, 64, 128, 130, 194, 258, 260]
    assert plan.first_chunk_P.tolist() == [0, 3, 6]
    assert (plan.num_documents, plan.num_chunks) == (2, 6)
    assert max_chunks(num_rows=2, num_tokens=130, offsets_cpu_P=None) == 6


def test_documents_are_cut_into_chunks_that_end_with_them() -> None:
    offsets = torch.tensor([0, 1, 66, 130, 194, 260])

    plan = plan_chunks(num_rows=2, num_tokens=130, offsets_cpu_P=offsets, device=CPU)

    assert plan.start_Z.tolist() == [0, 1, 65, 66, 130, 194, 258, 260]
    assert plan.first_chunk_P.tolist() == [0, 1, 3, 4, 5, 7]
    assert plan.num_chunks <= max_chunks(num_rows=2, num_tokens=130, offsets_cpu_P=offsets)


@pytest.mark.parametrize("lengths", [[1] * 130, [64, 64, 2], [65, 65], [130]])
def test_there_are_never_more_chunks_than_planned_for(lengths: list[int]) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)

    plan = plan_chunks(num_rows=1, num_tokens=130, offsets_cpu_P=offsets, device=CPU)

    assert plan.num_chunks <= max_chunks(num_rows=1, num_tokens=130, offsets_cpu_P=offsets)


@pytest.mark.parametrize("is_exact", [False, True])
def test_every_head_dim_has_blocks_that_divide_it(is_exact: bool) -> None:
    for key_dim in TRITON_KEY_DIMS:
        for value_dim in TRITON_VALUE_DIMS:
            config = choose_config(architecture=HOPPER, key_dim=key_dim, value_dim=value_dim, is_exact=is_exact)
            for block in (config.scan_value_block, config.gradient_value_block):
                assert value_dim % block == 0
                assert block >= 16
                assert block & (block - 1) == 0


def test_on_hopper_no_loop_in_bf16_has_a_single_stage() -> None:
    for key_dim in TRITON_KEY_DIMS:
        for value_dim in TRITON_VALUE_DIMS:
            config = choose_config(architecture=HOPPER, key_dim=key_dim, value_dim=value_dim, is_exact=False)
            assert min(config.forward.stages, config.backward.stages, config.gradients.stages) >= 2


def test_a_measured_shape_has_its_own_configuration() -> None:
    assert choose_config(architecture=HOPPER, key_dim=96, value_dim=192, is_exact=False) is CONFIGS[HOPPER, 96, 192]


def test_shapes_are_known_without_running() -> None:
    q, v = torch.empty(2, 130, 3, 96, dtype=torch.bfloat16, device="meta"), torch.empty(2, 130, 6, 192, dtype=torch.bfloat16, device="meta")

    out, final_state, inverse, scores, gates, updates, states = empty_forward(q, v, None, True)

    assert out.shape == updates.shape == v.shape
    assert final_state.shape == (2, 6, 96, 192)
    assert inverse.shape == scores.shape == (2, 130, 6, 64)
    assert gates.shape == (5, 6, 260)
    assert states.shape == (6, 6, 192, 96)


@pytest.mark.parametrize(
    ("q", "v", "message"),
    [
        (torch.empty(1, 4, 2, 24), torch.empty(1, 4, 2, 32), "head dims 24 and 32: .*; take 32 to 128"),
        (torch.empty(1, 4, 2, 32), torch.empty(1, 4, 2, 40), "head dims 32 and 40"),
        (torch.empty(1, 4, 2, 32), torch.empty(1, 4, 2, 32).bfloat16(), "both in bfloat16 or both in float32"),
        (torch.empty(1, 4, 2, 32), torch.empty(1, 4, 3, 32), "3 value heads over 2 key heads"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused(q: torch.Tensor, v: torch.Tensor, message: str) -> None:
    gate = torch.zeros(*v.shape[:3])
    with pytest.raises(ValueError, match=message):
        delta_rule_forward(q, q, v, gate, gate, None, None, False)


@pytest.mark.parametrize("odd_one", ["k", "v", "log_decay", "beta"])
def test_inputs_that_do_not_belong_together_are_refused_before_a_kernel_reads_past_one(odd_one: str) -> None:
    parts = {name: torch.zeros(1, 4, 2, 32) for name in ("q", "k", "v")} | {name: torch.zeros(1, 4, 2) for name in ("log_decay", "beta")}
    parts[odd_one] = parts[odd_one][:, :3]
    with pytest.raises(ValueError, match=r"^q, k, v, log_decay, beta: \[1, 4, 2, 32\] torch.float32, .*; k is as q, and"):
        delta_rule_forward(**parts, offsets_cpu_P=None, initial_state=None, output_final_state=False)


@pytest.mark.parametrize("num_tokens", [3, 5])
def test_documents_of_other_rows_are_refused_before_a_kernel_passes_over_tokens_or_past_them(num_tokens: int) -> None:
    parts = {name: torch.zeros(2, num_tokens, 2, 32) for name in ("q", "k", "v")}
    gates = {name: torch.zeros(2, num_tokens, 2) for name in ("log_decay", "beta")}
    offsets = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    with pytest.raises(ValueError, match=f"^documents of 8 tokens for 2 × {num_tokens}: build them for these rows$"):
        delta_rule_forward(**parts, **gates, offsets_cpu_P=offsets, initial_state=None, output_final_state=False)


@pytest.mark.parametrize(
    ("state", "offsets", "message"),
    [
        (torch.zeros(1, 3, 32, 48), None, r"^initial state \[1, 3, 32, 48\] .* give \[2, 3, 32, 48\]"),
        (torch.zeros(2, 3, 48, 32), None, r"give \[2, 3, 32, 48\]"),
        (torch.zeros(2, 3, 32, 48), torch.tensor([0, 1, 5, 8, 10]), r"give \[4, 3, 32, 48\]"),
        (torch.zeros(2, 3, 32, 48, dtype=torch.float64), None, "in torch.float64 .* in float32"),
        (torch.zeros(2, 3, 32, 48, device="meta"), None, "on meta.* on cpu"),
    ],
    ids=["too few", "transposed", "not one per document", "fp64", "elsewhere"],
)
def test_initial_states_are_checked_before_a_kernel_reads_them(state: torch.Tensor, offsets: torch.Tensor | None, message: str) -> None:
    q, v, gate = torch.zeros(2, 5, 3, 32), torch.zeros(2, 5, 3, 48), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=message):
        delta_rule_forward(q, q, v, gate, gate, offsets, state, True)

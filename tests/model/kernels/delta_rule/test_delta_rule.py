"""The chunked delta rule against the step-by-step definition, forward and every gradient; documents; the operators."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from model.documents import Documents
from model.kernels.delta_rule import definition
from model.kernels.delta_rule.chunked import gated_delta_rule_chunked
from model.kernels.delta_rule.operator import FORWARD_OPERATORS, gated_delta_rule
from model.kernels.delta_rule.sizes import Backend
from tests.model.kernels.delta_rule.fake_fla import FakeFla, install
from tests.model.packed_rows import ODD_STARTS, Starts, packed, spans

NUM_ROWS, NUM_HEADS, KEY, VALUE = 2, 3, 8, 12
DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "usual decay": lambda noise: -F.softplus(noise),
    "no decay": torch.zeros_like,
    "strong decay": lambda noise: torch.full_like(noise, -20.0),
    "weak behind strong decay": lambda noise: torch.where(noise > 0, -20.0, -1e-3),
}


def inputs(num_tokens: int, decay: str, dtype: torch.dtype, *, correlated: bool = False, group: int = 1) -> dict[str, Tensor]:
    """Normalised q and k, beta over all of [0, 2]; correlated keys are those that break a doubling inverse; `group` values per key."""
    generator = torch.Generator().manual_seed(num_tokens)

    def noise(*shape: int, num_heads: int = NUM_HEADS) -> Tensor:
        return torch.randn(NUM_ROWS, num_tokens, num_heads, *shape, generator=generator, dtype=torch.float64)

    k = noise(KEY) * 0.05 + noise(KEY)[:, :1] if correlated else noise(KEY)
    parts = {
        "q": F.normalize(noise(KEY), dim=-1) * KEY**-0.5,
        "k": F.normalize(k, dim=-1),
        "v": noise(VALUE, num_heads=NUM_HEADS * group),
        "log_decay": DECAYS[decay](noise(num_heads=NUM_HEADS * group)),
        "beta": 2 * (3 * noise(num_heads=NUM_HEADS * group)).sigmoid(),
    }
    return {name: x.to(dtype).requires_grad_() for name, x in parts.items()}


def forward_and_gradients(delta_rule: Callable[..., Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    out = delta_rule(**parts)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).cos().view_as(out)
    return {"out": out.detach()} | dict(zip(parts, torch.autograd.grad((out * weight).sum(), list(parts.values())), strict=True))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Relative to each tensor's norm, or to the output's where a gradient all but vanishes (that of a decay of e^-20)."""
    for name in theirs:
        scale = theirs[name].norm() + 1e-3 * theirs["out"].norm()
        distance = ((ours[name].double() - theirs[name]).norm() / scale).item()
        assert distance < tolerance, f"{name} is {distance:.1e} off"


@pytest.mark.parametrize("num_tokens", [1, 5, 16, 37])
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_agree_with_the_definition(num_tokens: int, decay: str) -> None:
    exact = forward_and_gradients(definition.gated_delta_rule, inputs(num_tokens, decay, torch.float64))
    chunked = forward_and_gradients(lambda **parts: gated_delta_rule_chunked(**parts, chunk=16), inputs(num_tokens, decay, torch.float64))
    assert_close(chunked, exact, 1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("correlated", [False, True])
def test_fp32_loses_no_more_than_rounding(decay: str, correlated: bool) -> None:
    num_tokens = 131  # two full chunks of 64 and an odd rest
    exact = forward_and_gradients(definition.gated_delta_rule, inputs(num_tokens, decay, torch.float64, correlated=correlated))
    single = forward_and_gradients(gated_delta_rule_chunked, inputs(num_tokens, decay, torch.float32, correlated=correlated))
    assert_close(single, exact, 3e-6)


def test_value_heads_of_a_group_share_its_key_head() -> None:
    def repeated(*, q: Tensor, k: Tensor, **parts: Tensor) -> Tensor:
        return definition.gated_delta_rule(q=q.repeat_interleave(2, dim=2), k=k.repeat_interleave(2, dim=2), **parts)

    def one_by_one(*, q: Tensor, k: Tensor, **parts: Tensor) -> Tensor:
        heads = [(slice(m // 2, m // 2 + 1), slice(m, m + 1)) for m in range(2 * NUM_HEADS)]
        outputs = [
            definition.gated_delta_rule(q=q[:, :, key], k=k[:, :, key], **{name: x[:, :, value] for name, x in parts.items()})
            for key, value in heads
        ]
        return torch.cat(outputs, dim=2)

    grouped = forward_and_gradients(definition.gated_delta_rule, inputs(16, "usual decay", torch.float64, group=2))
    for same in (repeated, one_by_one):
        assert_close(grouped, forward_and_gradients(same, inputs(16, "usual decay", torch.float64, group=2)), 1e-14)


@pytest.mark.parametrize("num_tokens", [1, 37])
@pytest.mark.parametrize("decay", DECAYS)
def test_chunks_of_grouped_values_agree_with_the_definition(num_tokens: int, decay: str) -> None:
    exact = forward_and_gradients(definition.gated_delta_rule, inputs(num_tokens, decay, torch.float64, group=2))
    parts = inputs(num_tokens, decay, torch.float64, group=2)
    assert_close(forward_and_gradients(lambda **parts: gated_delta_rule_chunked(**parts, chunk=16), parts), exact, 1e-12)


def test_rewriting_one_key_replaces_its_value() -> None:
    """With beta 1 and no decay the state is a memory: reading a key gives what was last written to it."""
    key = F.one_hot(torch.tensor([0, 1, 0]), 2).float().view(1, 3, 1, 2)
    value = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    out = definition.gated_delta_rule(q=key, k=key, v=value, log_decay=torch.zeros(1, 3, 1), beta=torch.ones(1, 3, 1))
    assert out.flatten().tolist() == [1.0, 2.0, 3.0]


def test_a_beta_of_two_reflects_what_a_key_held() -> None:
    """The negative eigenvalue: writing 0 with beta 2 turns the stored value's sign."""
    key = torch.ones(1, 2, 1, 1)
    value = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    beta = torch.tensor([1.0, 2.0]).view(1, 2, 1)
    out = gated_delta_rule_chunked(q=key, k=key, v=value, log_decay=torch.zeros(1, 2, 1), beta=beta)
    assert out.flatten().tolist() == [1.0, -1.0]


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch) -> FakeFla:
    return install(monkeypatch)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def one_document_at_a_time(**parts: Tensor) -> Tensor:
    outputs = [
        definition.gated_delta_rule(**{name: x[row : row + 1, start:end] for name, x in parts.items()}).squeeze(0)
        for row, start, end in spans(ODD_STARTS, 83)
    ]
    return torch.cat(outputs).view_as(parts["v"])


PACKED = packed(ODD_STARTS, 83)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-6)])
def test_a_packed_document_computes_what_it_does_alone(dtype: torch.dtype, tolerance: float, decay: str) -> None:
    alone = forward_and_gradients(one_document_at_a_time, inputs(83, decay, torch.float64))
    packed = forward_and_gradients(partial(gated_delta_rule, documents=PACKED, backend="torch"), inputs(83, decay, dtype))
    assert_close(packed, alone, tolerance)


def test_the_definition_resets_at_documents() -> None:
    alone = forward_and_gradients(one_document_at_a_time, inputs(83, "usual decay", torch.float64))
    packed = forward_and_gradients(partial(definition.gated_delta_rule, documents=PACKED), inputs(83, "usual decay", torch.float64))
    assert_close(packed, alone, 1e-13)


@pytest.mark.parametrize("backend", ["torch", "fla"])
def test_no_gradient_crosses_into_another_document(fla: FakeFla, backend: Backend) -> None:
    parts = inputs(83, "no decay", torch.float32)
    out = gated_delta_rule(**parts, documents=PACKED, backend=backend)
    row, start, end = spans(ODD_STARTS, 83)[4]
    for name, gradient in zip(parts, torch.autograd.grad(out[row, start:end].sum(), list(parts.values())), strict=True):
        gradient[row, start:end] = 0
        assert not gradient.any(), name


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("documents", [None, PACKED], ids=["whole rows", "documents"])
def test_fla_is_asked_for_the_same(fla: FakeFla, documents: Documents | None, group: int) -> None:
    exact_inputs = inputs(83, "usual decay", torch.float64, group=group)
    exact = forward_and_gradients(partial(definition.gated_delta_rule, documents=documents), exact_inputs)
    parts = transposed_in_memory(inputs(83, "usual decay", torch.float32, group=group))
    ours = forward_and_gradients(partial(gated_delta_rule, documents=documents, backend="fla"), parts)
    assert_close(ours, exact, 3e-6)
    assert (fla.num_forwards, fla.num_backwards) == (1, 1)


def transposed_in_memory(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values as a view of heads before tokens."""
    return {name: x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for name, x in parts.items()}


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("backend", ["torch", "fla"])
def test_sixteen_bits_in_and_out_with_gates_in_fp32(fla: FakeFla, backend: Backend, group: int) -> None:
    exact = inputs(40, "usual decay", torch.float64, group=group)
    half = {name: x.detach().to(torch.float32 if name in ("log_decay", "beta") else torch.bfloat16) for name, x in exact.items()}
    got = forward_and_gradients(
        partial(gated_delta_rule, documents=None, backend=backend), {k: x.requires_grad_() for k, x in half.items()}
    )
    assert {name: x.dtype for name, x in got.items()} == {"out": torch.bfloat16} | {name: x.dtype for name, x in half.items()}
    assert_close(got, forward_and_gradients(definition.gated_delta_rule, exact), 2e-2)


@pytest.mark.parametrize(("num_tokens", "num_heads", "group"), [(1, 1, 1), (70, 3, 1), (70, 3, 2)])
def test_the_operators_keep_pytorchs_rules(fla: FakeFla, num_tokens: int, num_heads: int, group: int) -> None:
    """Fakes with the true shapes and strides, no output that is an input, a backward that autograd and the compiler see alike."""
    all_heads = inputs(num_tokens, "usual decay", torch.float32, group=group)
    parts = transposed_in_memory({name: x[:, :, : num_heads * x.shape[2] // NUM_HEADS] for name, x in all_heads.items()})
    torch.library.opcheck(torch.ops.braid.delta_rule_torch.default, tuple(parts.values()))
    torch.library.opcheck(torch.ops.braid.delta_rule_fla.default, (*parts.values(), None, None))
    documents = packed(((0,), (0,)), num_tokens)
    torch.library.opcheck(torch.ops.braid.delta_rule_fla.default, (*parts.values(), documents.offsets_P, documents.offsets_cpu_P))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["torch", "fla"])
def test_a_compiled_step_is_the_eager_one_however_the_rows_are_packed(fla: FakeFla, backend: Backend) -> None:
    """Without a graph break; a number of documents that changes from batch to batch compiles once more at most."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    def rule(documents: Documents, parts: dict[str, Tensor]) -> Tensor:
        return gated_delta_rule(**parts, documents=documents, backend=backend)

    def run(rule: Callable[..., Tensor], starts: Starts) -> dict[str, Tensor]:
        return forward_and_gradients(lambda **parts: rule(packed(starts, 83), parts), inputs(83, "usual decay", torch.float32))

    compiled = torch.compile(rule, fullgraph=True, backend=keep)
    for starts in (ODD_STARTS, ((0,), (0,)), ((0, 5, 9), (0,)), ((0,), (0, 3, 80, 81, 82)), ((0, 50), (0,))):
        assert_close(run(compiled, starts), run(rule, starts), 1e-6)
    assert len(graphs) <= 2
    assert all(f"braid.delta_rule_{backend}" in graph.code for graph in graphs)


@pytest.mark.parametrize(("policy", "num_forwards"), [(CheckpointPolicy.MUST_SAVE, 1), (CheckpointPolicy.PREFER_RECOMPUTE, 2)])
def test_checkpointing_saves_the_operator_or_runs_it_again(fla: FakeFla, policy: CheckpointPolicy, num_forwards: int) -> None:
    def choose(ctx: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        return policy if op in FORWARD_OPERATORS else CheckpointPolicy.PREFER_RECOMPUTE

    def rule(**parts: Tensor) -> Tensor:
        return gated_delta_rule(**parts, documents=PACKED, backend="fla")

    contexts = partial(create_selective_checkpoint_contexts, choose)
    plain = forward_and_gradients(rule, inputs(83, "usual decay", torch.float32))
    fla.num_forwards = 0
    checkpointed = forward_and_gradients(
        lambda **parts: checkpoint(rule, use_reentrant=False, context_fn=contexts, **parts), inputs(83, "usual decay", torch.float32)
    )
    assert fla.num_forwards == num_forwards
    assert_close(checkpointed, plain, 1e-6)

"""The delta rule's front doors with the Triton backend, in Triton's interpreter; prints what is off, and nothing else.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set. Argument: one of CHECKS.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from model.build import build_model
from model.config import ModelConfig
from model.documents import Documents, build_documents
from model.kernels.delta_rule import operator as delta_rule_operator
from model.kernels.delta_rule.operator import FORWARD_OPERATORS, delta_rule_triton, gated_delta_rule
from model.mixers.context import Context
from tests.model.kernels.delta_rule.cases import Case, Inputs, distances, draw, exact_results, fenced

ROWS = Case(num_tokens=70, num_rows=2, num_key_heads=2, value_dim=16)
PACKED = replace(ROWS, starts=(0, 1, 66, 70))
Results = dict[str, Tensor]
Rule = Callable[..., tuple[Tensor, Tensor]]


def documents_of(case: Case) -> Documents | None:
    if case.starts is None:
        return None
    return build_documents(torch.tensor(case.offsets), num_rows=case.num_rows, num_tokens=case.num_tokens, device=torch.device("cpu"))


def with_states(*, initial_state: Tensor | None, documents: Documents | None, **parts: Tensor) -> tuple[Tensor, Tensor]:
    """out_BTMV and final_state_DMKV of the operator."""
    offsets_cpu_P = documents.offsets_cpu_P if documents is not None else None
    return delta_rule_triton(**parts, offsets_cpu_P=offsets_cpu_P, initial_state=initial_state, output_final_state=True)[:2]


def results(rule: Rule, case: Case, inputs: Inputs) -> Results:
    """The output, the final state and every gradient through both."""
    leaves = {name: part.detach().requires_grad_() for name, part in inputs.parts.items()}
    out, final_state = rule(**leaves, documents=documents_of(case))
    gradients = torch.autograd.grad([out, final_state], list(leaves.values()), [inputs.grad_out, inputs.grad_final_state])
    return {"out": out.detach(), "final_state": final_state.detach()} | dict(zip(leaves, gradients, strict=True))


def faults(name: str, ours: Results, theirs: Results, tolerance: float = 1e-5) -> Iterator[str]:
    for part, distance in distances(ours, theirs).items():
        if not distance <= tolerance:  # NaN too
            yield f"{name}: {part} is {distance:.1e} off"


def definition() -> Iterator[str]:
    """With gradients through the output and the final state; compiled in one graph the same bits."""
    for name, case in (("whole rows", ROWS), ("documents", PACKED)):
        inputs = draw(case)
        ours = results(with_states, case, inputs)
        yield from faults(name, ours, exact_results(case, inputs))
        compiled = torch.compile(with_states, fullgraph=True, backend="aot_eager")
        yield from faults(f"{name}, compiled", results(compiled, case, inputs), ours, 0.0)


def stateless() -> Iterator[str]:
    """The front door that has no states, which is also what starts from zero and whose final state nobody differentiates."""
    case = replace(PACKED, has_states=False)
    inputs, documents = draw(case), documents_of(case)
    exact = exact_results(case, inputs)
    rule = partial(gated_delta_rule, backend="triton", documents=documents)
    forms = {
        "eager": rule,
        "compiled": torch.compile(rule, fullgraph=True, backend="aot_eager"),
        "from zero": lambda **parts: with_states(**parts, initial_state=None, documents=documents)[0],
    }
    for form, out_of in forms.items():
        leaves = {part: x.detach().requires_grad_() for part, x in inputs.parts.items() if part != "initial_state"}
        out = out_of(**leaves)
        gradients = torch.autograd.grad(out, list(leaves.values()), inputs.grad_out)
        yield from faults(form, {"out": out.detach()} | dict(zip(leaves, gradients, strict=True)), exact)


def one_of_the_outputs() -> Iterator[str]:
    """Where only the output, or only the final state, is differentiated; or only one input wants its gradient."""
    inputs = draw(PACKED)
    for used in ("out", "final_state"):
        weights = {"grad_out": inputs.grad_out, "grad_final_state": inputs.grad_final_state}
        silent = "grad_final_state" if used == "out" else "grad_out"
        exact = exact_results(PACKED, replace(inputs, **{silent: torch.zeros_like(weights[silent])}))
        for wanted in (list(inputs.parts), ["v"], ["initial_state"]):
            leaves = {name: part.detach().requires_grad_(name in wanted) for name, part in inputs.parts.items()}
            out, final_state = with_states(**leaves, documents=documents_of(PACKED))
            source = out if used == "out" else final_state
            gradients = torch.autograd.grad(source, [leaves[name] for name in wanted], weights[f"grad_{used}"])
            yield from faults(f"{used} to {wanted}", dict(zip(wanted, gradients, strict=True)), exact)


def handing_over() -> Iterator[str]:
    """A row in two calls, the second from the first's final state, is the row in one: values and gradients."""

    def in_two(*, cut: int, documents: None, initial_state: Tensor, **parts: Tensor) -> tuple[Tensor, Tensor]:
        first, state = with_states(**{name: x[:, :cut] for name, x in parts.items()}, initial_state=initial_state, documents=None)
        second, state = with_states(**{name: x[:, cut:] for name, x in parts.items()}, initial_state=state, documents=None)
        return torch.cat([first, second], 1), state

    inputs = draw(ROWS)
    whole = results(with_states, ROWS, inputs)
    for cut in (1, 64, 69):
        yield from faults(f"cut at {cut}", results(partial(in_two, cut=cut), ROWS, inputs), whole, 2e-6)


def memory_formats() -> Iterator[str]:
    """Views: of other strides, at an offset into their storage, of one number."""
    inputs = draw(PACKED)
    expanded = replace(inputs, grad_out=torch.ones(()).expand_as(inputs.grad_out))
    exact = exact_results(PACKED, expanded)

    def transposed(x: Tensor) -> Tensor:
        return fenced(x.transpose(0, 1).contiguous()).transpose(0, 1)

    views = {name: transposed(x) for name, x in inputs.parts.items()}
    assert not any(x.is_contiguous() or x.storage_offset() == 0 for x in views.values())
    yield from faults("views", results(with_states, PACKED, replace(expanded, parts=views)), exact)
    compiled = torch.compile(with_states, fullgraph=True, backend="aot_eager")
    yield from faults("views, compiled", results(compiled, PACKED, replace(expanded, parts=views)), exact)


def nothing() -> Iterator[str]:
    """Rows without a token give none, and hand on the state that they were given."""
    case = replace(ROWS, num_tokens=0)
    inputs = draw(case)
    found = results(with_states, case, inputs)
    if found["out"].shape != (2, 0, 2, 16) or not torch.equal(found["final_state"], inputs.parts["initial_state"]):
        yield "rows of no tokens: another state"
    if not torch.equal(found["initial_state"], inputs.grad_final_state) or found["q"].shape != (2, 0, 2, 32):
        yield "rows of no tokens: another gradient"


def operator_rules() -> Iterator[str]:
    """Fakes with the true shapes and strides, no output that is an input, a backward that autograd and the compiler see alike."""
    *parts, state = (part.detach().requires_grad_() for part in draw(PACKED).parts.values())
    torch.library.opcheck(delta_rule_triton, (*parts, torch.tensor(PACKED.offsets), state, True))
    *parts, state = draw(ROWS).parts.values()
    views = [part.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for part in parts]
    torch.library.opcheck(delta_rule_triton, (*views, None, None, False))
    yield from ()


def selective_checkpointing() -> Iterator[str]:
    inputs = draw(PACKED)
    plain, run, num_forwards = results(with_states, PACKED, inputs), delta_rule_operator.delta_rule_forward, 0

    def counted(*call: object) -> object:
        nonlocal num_forwards
        num_forwards += 1
        return run(*call)  # type: ignore[arg-type]

    def choose(ctx: object, operator: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        return policy if operator in FORWARD_OPERATORS else CheckpointPolicy.PREFER_RECOMPUTE

    delta_rule_operator.delta_rule_forward = counted  # type: ignore[assignment]
    for policy, expected in ((CheckpointPolicy.MUST_SAVE, 1), (CheckpointPolicy.PREFER_RECOMPUTE, 2)):
        num_forwards = 0
        contexts = partial(create_selective_checkpoint_contexts, choose)
        rule = partial(checkpoint, with_states, use_reentrant=False, context_fn=contexts)
        yield from faults(f"checkpointed, {policy}", results(rule, PACKED, inputs), plain, 0.0)
        if num_forwards != expected:
            yield f"checkpointed, {policy}: {num_forwards} forwards"
    delta_rule_operator.delta_rule_forward = run


def whole_layer() -> Iterator[str]:
    """The mixer with every kernel of ours against the mixer in plain torch."""
    config = ModelConfig(
        vocab_size=8, d_model=24, num_layers=1, layer_pattern="gdn", num_heads=2, head_dim=8, gdn_key_dim=48, gdn_value_dim=32, ffn_width=8
    )
    x_BTD = torch.randn(2, 70, 24, generator=torch.Generator().manual_seed(1))
    found = {}
    for backend in ("torch", "triton"):
        model = build_model(replace(config, gdn_backend=backend), None, device=torch.device("cpu"), seed=0)
        mixer, gate, x = model.layers[0].mixer, model.gates()[0], x_BTD.clone().requires_grad_()
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.mul_(10 if parameter.ndim > 1 else 1)
        out_BTD = mixer(x, Context(gate=gate, rotary=None, documents=documents_of(PACKED)))
        out_BTD.square().sum().backward()
        parameters = dict(mixer.named_parameters()) | dict(model.gates.named_parameters())
        found[backend] = {"out": out_BTD.detach(), "x": x.grad, **{name: parameter.grad for name, parameter in parameters.items()}}
    yield from faults("whole layer", found["triton"], found["torch"], 1e-4)


CHECKS = {
    "the definition": [definition, stateless, handing_over],
    "what is asked for": [one_of_the_outputs, memory_formats, nothing],
    "pytorch's rules": [operator_rules, selective_checkpointing],
    "the whole layer": [whole_layer],
}


def main() -> None:
    warnings.simplefilter("ignore")  # NumPy's, of overflows in the interpreter
    torch.set_num_threads(1)
    for check in CHECKS[sys.argv[1]]:
        for fault in check():
            print(f"{check.__name__}: {fault}")


if __name__ == "__main__":
    main()

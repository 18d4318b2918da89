"""The SwiGLU feed-forward (arXiv 2002.05202)."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.ffn.swiglu.costs import swiglu_parameters
from model.kernels.operators import takes_kernels
from model.kernels.swiglu import definition, operator
from model.layers.linear import Linear, project
from model.parallel.collectives import gather_tokens, scatter_tokens


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), x_BTD to out_BTD of this rank's tokens; inside, the ranks share the F columns."""

    kept_products = ("gate_proj", "down_proj")
    """What selective checkpointing keeps; down only where its output is read (see `Block`)."""

    def __init__(self, d_model: int, ffn_width: int, tp: DeviceMesh | None) -> None:
        super().__init__()
        declared = swiglu_parameters(d_model, ffn_width)
        self.gate_proj = Linear(declared["gate_proj.weight"])
        self.up_proj = Linear(declared["up_proj.weight"])
        self.down_proj = Linear(declared["down_proj.weight"])
        self.tp = tp

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = project(gather_tokens(x_BTD, self.tp), self.gate_proj, self.up_proj)
        return scatter_tokens(self.down_proj(swiglu(gate_BTF, up_BTF)), self.tp)


def swiglu(gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
    """silu(gate) · up, by our kernel where that is taken."""
    return (operator if takes_kernels(gate_BTF, up_BTF) else definition).swiglu(gate_BTF, up_BTF)

"""What the rest of the model asks of a kind of mixer. Pure: what needs torch is imported when it is built or checked."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from model.declare import Parameter
from model.share import Share

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from model.kernel_check import CheckTerms, KernelCheck

Config = TypeVar("Config", contravariant=True)


class Mixer(Protocol[Config]):
    """A way to mix tokens: x_BTD to out_BTD. One instance for each kind of layer, in `registry.MIXERS`."""

    part: ClassVar[str]
    """What reports call its parameters, such as `GDN mixers`; kinds that share a part are counted together."""
    kept_products: ClassVar[tuple[str, ...]]
    """Projections of the layer whose products selective checkpointing keeps."""
    norm_first: ClassVar[bool]
    """Whether a block is x + mixer(norm(x)), or else x + norm(mixer(x)); its feed-forward alike."""

    def check(self, config: Config) -> None:
        """Raises ValueError, one line that begins with the dotted key, for a configuration that this kind can't have."""

    def num_heads(self, config: Config) -> int:
        """Heads that cp · tp ranks share: none is split."""

    def parameters(self, config: Config) -> dict[str, Parameter]:
        """Every parameter of the layer within its block."""

    def gate_parameters(self, config: Config) -> dict[str, Parameter]:
        """Parameters that stay fp32 where the rest computes in bf16: they are the model's `gates`, apart from the block."""

    def flops_per_token(self, config: Config, seq_len: int) -> float:
        """Training FLOPs beyond those of the parameters' products."""

    def saved_bytes(self, config: Config, share: Share) -> int:
        """What autograd saves inside the mixer without checkpointing."""

    def selected_bytes(self, config: Config, share: Share) -> int:
        """What selective checkpointing keeps of that."""

    def runs_kernels(self, config: Config, device_type: str) -> bool:
        """Whether the layer runs a kernel of ours or another's on such a device, rather than plain torch."""

    def kept_operators(self) -> frozenset[Any]:
        """Operators of torch whose outputs selective checkpointing keeps, wherever they run in the block."""

    def build(self, config: Config, *, tp: "DeviceMesh | None", cp: "DeviceMesh | None") -> Any:
        """The layer, an nn.Module: (x_BTD, `context.Context`) → out_BTD, both of this rank's tokens."""

    def checks(self, config: Config, terms: "CheckTerms") -> "Iterator[KernelCheck]":
        """Every kernel that the layer runs, beside its definition."""

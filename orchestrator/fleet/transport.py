"""What the controller's side needs of the world in which agents live. Ray implements it, and a simulation does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.config import RecoveryConfig
from orchestrator.node.agent import AgentIdentity

Ref = Hashable
"""A call that is under way, or whose answer is there."""


class AgentGone(Exception):
    """The agent does not exist: it never came to be, it ended, or its node did."""


class AgentUnreachable(Exception):
    """The agent can't be reached for now; asking again may help."""


class StaleController(Exception):
    """The agent obeys a newer controller of the run; the caller must step down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterNode:
    """A node as the cluster lists it."""

    node: str
    """Its id, which changes whenever it joins anew."""
    machine: str
    """What stays."""
    is_alive: bool = True


class Transport(Protocol):
    """One controller's way to its agents. For one thread, apart from `ask`. Only `wait` and `ask` block.

    Agents are opaque handles. Their methods are those of `ray_backend.node_agent.NodeAgent`.
    """

    def now(self) -> float:
        """Monotonic seconds."""

    def nodes(self) -> tuple[ClusterNode, ...]:
        """Every node that the cluster knows, dead ones included perhaps."""

    def free_gpus(self) -> Mapping[str, int]:
        """By node: those that no actor of any run holds, as the cluster's head knows it, which may be a second old."""

    def start_agent(self, name: str, identity: AgentIdentity, recovery: RecoveryConfig, *, epoch: int, num_gpus: int) -> Any:
        """Begins to start an agent on its node, holding the GPUs; the one of that name that is there already is taken."""

    def find_agent(self, name: str) -> Any | None:
        """None when there is none of that name."""

    def agent_names(self, prefix: str) -> list[str]:
        """Those that begin with the prefix."""

    def call(self, agent: Any, method: str, *args: Any) -> Ref:
        """Begins to call a method of an agent."""

    def wait(self, timeout_s: float, limit: int) -> list[Ref]:
        """Calls whose answers have arrived, `limit` at most, each once, the oldest first, as soon as there is one; [] after the timeout."""

    def result(self, ref: Ref) -> Any:
        """The answer to a call that `wait` returned; to be taken once. Raises AgentGone, AgentUnreachable or StaleController."""

    def ask(self, agent: Any, method: str, *args: Any, timeout_s: float) -> Any:
        """The answer to a call, from any thread. Raises what `result` does; AgentUnreachable after the timeout."""

    def kill(self, agent: Any) -> None:
        """Begins to end an agent, whatever it does; its workers end with it, and its GPUs are free."""


def kill_agents(transport: Transport, prefix: str) -> int:
    """Ends every agent whose name begins so, its workers with it, and returns how many these were."""
    found = [agent for name in transport.agent_names(prefix) if (agent := transport.find_agent(name)) is not None]
    for agent in found:
        transport.kill(agent)
    return len(found)

"""From the desired state to what each agent is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.config import RunConfig
from orchestrator.control.desired import Desired
from orchestrator.messages import AgentReport, MirrorPlace, Mode, Rendezvous
from orchestrator.node.orders import AgentOrder, SpawnOrder


def choose_rendezvous(attempt: int, placement: tuple[str, ...], reports: Mapping[str, AgentReport]) -> Rendezvous | None:
    """Where the workers of the attempt meet; None while no agent has said it. `reports` by node.

    Where an agent runs the attempt already it is the place that an earlier controller chose, else one that the first node's agent offers.
    """
    for report in reports.values():
        if report.attempt == attempt and report.rendezvous is not None:
            return report.rendezvous
    first = reports.get(placement[0]) if placement else None
    return first.offer if first is not None else None


def buddy_of(index: int, num_nodes: int) -> int:
    """Of the node in this place of an attempt, the place of the node that has copies of its snapshots: half of all away, since nodes
    with names next to each other often share what fails. Each is one node's buddy.
    """
    return (index + num_nodes // 2) % num_nodes


def orders_of(
    desired: Desired, rendezvous: Rendezvous | None, config: RunConfig, *, mirrors: Mapping[str, MirrorPlace] = MappingProxyType({})
) -> dict[str, AgentOrder]:
    """By node, for each that is to have an order now. Workers start only once it is known where they meet.

    `mirrors`: by node, where agents keep copies of others' snapshots, as far as that is known.
    """
    if desired.attempt == 0:
        return {}
    kill = AgentOrder(attempt=desired.attempt, mode=Mode.KILL, wants_evidence=desired.wants_evidence)
    working = frozenset(desired.placement if desired.mode is not Mode.KILL else ())
    orders = {node: kill for node in desired.held if node not in working}
    if desired.mode is Mode.SAVE:
        save = AgentOrder(attempt=desired.attempt, mode=Mode.SAVE)
        orders |= {node: save for node in desired.placement}
    if desired.mode is Mode.RUN and rendezvous is not None:
        orders |= {node: _run(desired, index, rendezvous, config, mirrors) for index, node in enumerate(desired.placement)}
    return orders


def _run(desired: Desired, index: int, rendezvous: Rendezvous, config: RunConfig, mirrors: Mapping[str, MirrorPlace]) -> AgentOrder:
    placement, num_nodes = desired.placement, len(desired.placement)
    buddy = buddy_of(index, num_nodes)
    is_mirrored = buddy != index and config.snapshot.enabled and config.snapshot.mirror
    ranks = _ranks_on(index, desired)
    spawn = SpawnOrder(
        run=config.name,
        attempt=desired.attempt,
        config_version=desired.config_version,
        storage=config.storage,
        world_size=desired.world_size,
        first_rank=ranks.start,
        num_workers=len(ranks),
        rendezvous=rendezvous,
        mirrored_ranks=_ranks_on((index - num_nodes // 2) % num_nodes, desired) if is_mirrored else range(0),
    )
    return AgentOrder(attempt=desired.attempt, mode=Mode.RUN, spawn=spawn, buddy=mirrors.get(placement[buddy]) if is_mirrored else None)


def _ranks_on(index: int, desired: Desired) -> range:
    """Of the node in this place."""
    first = index * desired.workers_per_node
    return range(first, min(first + desired.workers_per_node, desired.world_size))

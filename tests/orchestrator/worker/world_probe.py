"""A rank under torchrun that meets the others and trains nothing. The last one dies in the first incarnation, once all have met."""

import os
import sys
import threading
from pathlib import Path

import torch.distributed as dist

from orchestrator.worker.world import World, build_world
from tests.orchestrator.worker.tiny_run import tiny_config


def meet(world: World) -> None:
    """The main thread meets the others while another one waits for the last rank, which speaks only after that."""
    last = world.exchange.world_size - 1
    waits = threading.Thread(target=lambda: world.save_exchange.broadcast("done", source=last))
    if world.rank != last:
        waits.start()
    world.exchange.barrier()
    if world.rank == last:
        waits.start()
    waits.join()


def main() -> None:
    world = build_world(tiny_config(Path("/nowhere"), dp_shard=2), os.environ)
    meet(world)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if world.rank == 1:
            os._exit(1)
        world.exchange.barrier()  # until torchrun ends it
    names = world.exchange.gather(f"rank {world.rank} of node {world.rank // world.ranks_per_node}")
    if names is not None:
        num_of_all = sum(group.size() == 2 for group in dist.distributed_c10d._world.pg_map)
        print(f"met {names}, {num_of_all} group of all ranks")
    world.leave()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

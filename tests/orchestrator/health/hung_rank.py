"""One of two ranks, the second of which never comes to the collective: `python -m tests.orchestrator.health.hung_rank RANK FILE`."""

import sys
import threading

import torch
import torch.distributed as dist

from orchestrator.worker.main import dump_stacks_on_sigusr1


def main() -> None:
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    dump_stacks_on_sigusr1()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    print("joined", flush=True)
    if rank:
        threading.Event().wait()
    dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    main()

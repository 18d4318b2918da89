"""A worker with a fault: every rank trains on the first rank's rows. Started like a worker."""

from orchestrator.worker.main import main
from orchestrator.worker.world import World


def first_ranks_rows(self: World, batch_rows: int) -> range:
    return range(batch_rows // self.mesh.parallel.dp)


if __name__ == "__main__":
    World.rank_rows = first_ranks_rows  # type: ignore[method-assign]
    main()

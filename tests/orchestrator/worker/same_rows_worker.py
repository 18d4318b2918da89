"""A worker with a fault: every rank trains on the first rank's rows. Started like a worker."""

from data_pipeline.read import loader
from orchestrator.worker.main import main


def first_ranks_rows(rank: int, *, num_ranks: int, batch_rows: int) -> range:
    return range(batch_rows // num_ranks)


if __name__ == "__main__":
    loader.rows_of_rank = first_ranks_rows  # type: ignore[assignment]
    main()

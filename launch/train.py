"""A run's workers under plain torchrun, without Ray, controller or agent:

    torchrun --nproc-per-node 2 -m launch.train tiny train.num_steps=100

It checkpoints and resumes like any run; restarting what died is torchrun's part (--max-restarts).
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError
from launch.config.load import load_config
from launch.errors import ConfigError, UserError
from launch.runs.record import run_store_of
from model.parallel.config import validate_world
from orchestrator.config import RunConfig
from orchestrator.records.configs import add_config, is_newest_config
from orchestrator.records.keys import config_key
from orchestrator.worker.environment import cache_dir
from orchestrator.worker.main import EXIT_USAGE, dump_stacks_on_sigusr1, end_process, run_reported, start_logging, stop_on_sigterm
from orchestrator.worker.reporter import build_reporter

USAGE = "usage: torchrun --nproc-per-node N -m launch.train RECIPE [key=value …]"
SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
log = logging.getLogger("launch.train")


def main(arguments: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    dump_stacks_on_sigusr1()
    start_logging()
    reporter = build_reporter(None)
    stop = stop_on_sigterm(reporter)
    try:
        config = read_arguments(arguments, variables)
        store = open_store(config.storage)
        if variables["RANK"] == "0":
            keep_config(run_store_of(store, config.name), config)
    except (UserError, StoreError) as error:
        log.error("%s", error)
        end_process(EXIT_USAGE)
    from orchestrator.worker.session import train_once  # imports torch, which a mistyped key need not wait for

    end_process(
        run_reported(
            lambda: train_once(config, store, attempt_number=None, reporter=reporter, stop=stop, cache_dir=cache_dir(variables)), reporter
        )
    )


def read_arguments(arguments: Sequence[str], variables: Mapping[str, str]) -> RunConfig:
    """Raises UserError where this is not torchrun, or has another number of processes than the layout."""
    if not arguments or any(name not in variables for name in SET_BY_TORCHRUN):
        raise UserError(USAGE)
    config = load_config(arguments[0], arguments[1:])
    try:
        validate_world(config.parallel, int(variables["WORLD_SIZE"]))
    except ValueError as error:
        raise ConfigError(f"{error}, or start as many processes with --nproc-per-node") from error
    return config


def keep_config(run_store: ObjectStore, config: RunConfig) -> None:
    """Adds the configuration to the run, unless it is the one that the run had last."""
    if is_newest_config(run_store, config):
        return
    try:
        version = add_config(run_store, config)
    except KeyExists as error:
        raise UserError(f"name={config.name}: somebody else starts this run at this moment; choose another name") from error
    log.info("configuration of run %s written to %s", config.name, run_store.url(config_key(version)))


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)

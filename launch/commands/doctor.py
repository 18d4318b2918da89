"""`braid doctor`: what works on this machine, in the store and in the cluster, and what does not."""

import os

import typer
from rich.text import Text

from launch.commands.options import Address, Endpoint, Storage
from launch.config.storage import DEFAULT_ROOT, storage_of
from launch.machine.doctor import check_cluster, examine
from launch.show.console import console
from launch.show.render import checks_table
from orchestrator.node.home import home_directory
from orchestrator.worker.environment import cache_dir


def doctor(storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "", address: Address = "") -> None:
    """Check this machine, the store and the cluster; exit status 1 where something would not work."""
    where = storage_of(storage, endpoint_url)
    with console(stderr=True).status(Text(f"looking at this machine, {where.root} and the cluster")):
        checks = list(
            examine(where, home=home_directory(), cache=cache_dir(os.environ), cluster=lambda: check_cluster(address, os.environ))
        )
    console().print(checks_table(checks))
    raise typer.Exit(1 if any(check.level == "fail" for check in checks) else 0)

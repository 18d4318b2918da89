"""`braid data`: makes datasets, and looks into them. A file per command."""

import typer

from launch.commands.data.build import build
from launch.commands.data.inspect import inspect
from launch.commands.data.pack import pack
from launch.commands.data.plan import plan
from launch.commands.data.register import register
from launch.commands.data.show import show

app = typer.Typer(no_args_is_help=True, help="Make datasets, and look into them.")
for command in (build, register, pack, inspect, plan, show):
    app.command()(command)

"""Arguments and options that several commands share."""

from typing import Annotated

import typer

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, as printed by `braid submit`.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings on top, such as train.num_steps=200.")]
ModelOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE…", help="Settings of a recipe that decide what it costs, such as parallel.dp_shard=8."),
]
Storage = Annotated[
    str, typer.Option("--storage", metavar="ROOT", envvar="BRAID_STORAGE_ROOT", help="Where runs live: s3://bucket/prefix or a directory.")
]
Endpoint = Annotated[str, typer.Option("--endpoint-url", metavar="URL", help="An S3-compatible server; empty: AWS, or AWS_ENDPOINT_URL.")]
Address = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", envvar="BRAID_ADDRESS", help="A Ray cluster; empty: the local one of this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

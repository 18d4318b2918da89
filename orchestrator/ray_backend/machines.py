"""Which machine a node of a Ray cluster is: the name that stays when its raylet restarts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABEL = "braid-machine"
"""The node's label that names its machine: `ray start --labels braid-machine=NAME`, as the templates in `launch/cluster` have it."""


def machine_of(node: Mapping[str, Any]) -> str:
    """`node` as `ray.nodes()` has it. Where nobody labelled it, its host's name, which all nodes of one host share."""
    label: str = node["Labels"].get(LABEL, "")
    name: str = node["NodeManagerHostname"]
    return label or name

"""Finding braid's actors by name."""

from __future__ import annotations

from typing import Any

import ray

from orchestrator.ray_backend.names import NAMESPACE


def find_actor(name: str) -> Any | None:
    """The handle of the actor of that name; None when there is none.

    Where the process that submitted is gone too, Ray forgets an ending actor's class a moment before the actor, and fails an assertion.
    """
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except (ValueError, AssertionError):
        return None

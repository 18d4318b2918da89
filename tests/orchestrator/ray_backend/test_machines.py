"""Which machine a node is, as Ray's own description of it says."""

from orchestrator.ray_backend.machines import machine_of


def test_a_node_is_the_machine_that_its_label_names_and_without_one_its_host():
    node = {"NodeID": "f" * 56, "NodeName": "10.0.0.7", "NodeManagerHostname": "gpu07"}

    assert machine_of(node | {"Labels": {"ray.io/node-id": "f" * 56, "braid-machine": "rack3-7"}}) == "rack3-7"
    assert machine_of(node | {"Labels": {"ray.io/node-id": "f" * 56}}) == "gpu07"

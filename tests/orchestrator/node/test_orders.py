"""The environment of a worker."""

from __future__ import annotations

from data_pipeline.config import StorageConfig
from orchestrator import codec
from orchestrator.node.orders import Rendezvous, SpawnOrder, worker_environment

INHERITED = {
    "PATH": "/usr/bin",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "RAY_JOB_ID": "01000000",
    "RAY_AUTH_TOKEN_PATH": "/token",
    "PYTHONBREAKPOINT": "ray.util.rpdb.set_trace",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def environment(device: str) -> dict[str, str]:
    order = SpawnOrder(
        run="first",
        attempt=2,
        config_version=1,
        storage=StorageConfig(root="s3://bucket/prefix"),
        device=device,
        world_size=16,
        first_rank=8,
        num_workers=8,
        rendezvous=Rendezvous(address="10.0.0.1", port=20001),
    )
    return worker_environment(INHERITED, order, local_rank=3, gpu_ids=("0", "1", "4", "5"), agent_pid=77)


def test_a_worker_learns_its_place_and_its_run():
    found = environment("cpu")

    assert [found[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")] == [
        "11",
        "3",
        "16",
        "10.0.0.1",
        "20001",
    ]
    assert [found[name] for name in ("BRAID_RUN", "BRAID_ATTEMPT", "BRAID_CONFIG_VERSION", "BRAID_AGENT_PID")] == ["first", "2", "1", "77"]
    assert codec.from_json(StorageConfig, found["BRAID_STORAGE"].encode()) == StorageConfig(root="s3://bucket/prefix")


def test_credentials_pass_and_what_ray_added_does_not():
    found = environment("cpu")

    assert found["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert not [name for name in found if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"]


def test_on_the_cpu_each_worker_keeps_to_one_thread_and_on_gpus_it_sees_those_of_its_node():
    assert environment("cpu")["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in environment("cuda")
    assert environment("cuda")["CUDA_VISIBLE_DEVICES"] == "0,1,4,5"

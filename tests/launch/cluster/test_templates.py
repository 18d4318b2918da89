"""The templates for KubeRay and `ray up`: every node is started with its machine's name, and without Ray's memory monitor."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import PREEMPTION_GRACE_S

TEMPLATES = Path(__file__).parents[3] / "launch/cluster"


def template(name: str) -> Any:
    return yaml.safe_load((TEMPLATES / name).read_text())


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_a_pod_of_kuberay_is_the_machine_that_it_runs_on(tmp_path: Path) -> None:
    """The shell puts the command together as in the pod."""
    (group,) = template("kuberay.yaml")["spec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["template"]["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    assert environment(container)["NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert "labels" not in group["rayStartParams"], "the operator refuses it"

    (tmp_path / "braid").write_text('#!/bin/bash\n[ "$1 $2" = "cluster node" ] && shift 2 && exec "$@"\n')
    (tmp_path / "braid").chmod(0o755)
    (tmp_path / "ray").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    generated = """ray start --address=head:6379 --block --resources='{"a b": 1}'"""
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NODE_NAME": "ip-10-0-0-7.internal", "KUBERAY_GEN_RAY_START_CMD": generated}
    done = subprocess.run(
        [*container["command"], *container["args"]], env=variables, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [
        "start",
        "--address=head:6379",
        "--block",
        '--resources={"a b": 1}',
        "--labels=braid-machine=ip-10-0-0-7.internal",
    ]


def test_no_pod_of_kuberay_has_a_memory_monitor() -> None:
    spec = template("kuberay.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert environment(container)["RAY_memory_monitor_refresh_ms"] == "0"


def test_a_pod_of_kuberay_has_time_to_save_before_it_is_killed() -> None:
    """SIGTERM goes to its first process only, and the pod ends with that one."""
    (group,) = template("kuberay.yaml")["spec"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    assert "exec braid cluster node " in spec["containers"][0]["args"][0]
    assert spec["terminationGracePeriodSeconds"] > PREEMPTION_GRACE_S


def test_ray_up_starts_every_node_with_its_name_and_without_a_memory_monitor() -> None:
    plain = template("ray_up.yaml")
    starts = [line for kind in ("head", "worker") for line in plain[f"{kind}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        assert "RAY_memory_monitor_refresh_ms=0 " in line
        assert '--labels="braid-machine=$(hostname)"' in line
        assert " setsid --fork braid cluster node ray start " in line

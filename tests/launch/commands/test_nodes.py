"""`braid nodes`: what is known of machines, cordoning them and giving them back."""

import json
from typing import Any

import pytest

from launch.runs.connection import ClusterNode
from orchestrator.records.nodes import Cordoned, Finding, NodeRegistry, standings
from tests.launch.command_line import Braid
from tests.launch.stored_runs import store_at

FINDING = Finding(at_s=60.0, machine="gpu07", run="first", attempt=2, cause="hardware", detail="Xid 79", strikes=2)


def record(braid: Braid, *events: Any) -> None:
    registry = NodeRegistry(store_at(braid.root))
    for event in events:
        registry.record(event)


def listed(braid: Braid) -> dict[str, dict[str, Any]]:
    return {one["machine"]: one for one in json.loads(braid("nodes", "--json").out)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of gpu07 and gpu08, which gpu09 has left."""
    nodes = [
        ClusterNode(node=name[::-1], machine=name, address="10.0.0.1", is_alive=name != "gpu09", num_cpus=8.0, num_gpus=8.0)
        for name in ("gpu07", "gpu08", "gpu09")
    ]
    monkeypatch.setattr("launch.runs.nodes.nodes_of_cluster", lambda address: nodes)


def test_machines_of_the_registry_and_of_the_cluster_are_listed(braid: Braid, cluster: None) -> None:
    record(braid, FINDING, Cordoned(at_s=120.0, machine="gpu01", reason="fans", by="ada@head"))
    found = listed(braid)

    assert {name: (one["state"], one["in_cluster"]) for name, one in found.items()} == {
        "gpu01": ("cordoned", False),
        "gpu07": ("strikes", True),
        "gpu08": ("ok", True),
    }
    assert found["gpu01"]["cordoned"] == {"reason": "fans", "by": "ada@head", "at_s": 120.0}
    assert (found["gpu07"]["strikes"], [one["detail"] for one in found["gpu07"]["findings"]]) == (2, ["Xid 79"])
    out = braid("nodes").out
    assert "1970-01-01 00:02:00" in out
    assert "gpu07: 1970-01-01 00:01:00, run first, attempt 2: hardware: Xid 79" in out


def test_without_a_cluster_the_registry_is_listed_and_it_is_said(braid: Braid) -> None:
    record(braid, FINDING)
    done = braid("nodes")

    assert (done.status, "gpu07" in done.out) == (0, True)
    assert done.err == "no cluster answers: only machines of which something is recorded are listed\n"


def test_where_nothing_is_known_it_says_so(braid: Braid) -> None:
    assert "nothing is held against any machine in" in braid("nodes").err
    assert braid("nodes", "--json").out == "[]\n"


def test_only_the_newest_findings_are_shown(braid: Braid) -> None:
    record(braid, *(Finding(at_s=1.0, machine="gpu07", run="first", attempt=n, cause="killed", detail="", strikes=1) for n in range(1, 7)))

    assert [one["attempt"] for one in listed(braid)["gpu07"]["findings"]] == [6, 5, 4]


def test_a_machine_is_cordoned_with_a_reason_and_given_back(braid: Braid, cluster: None) -> None:
    record(braid, FINDING)
    done = braid("nodes", "cordon", "gpu07", "--reason", "fans", "--within", "300")
    assert done.status == 0
    assert f"give it back with `braid nodes clear gpu07 --storage {braid.root}`" in done.err
    one = listed(braid)["gpu07"]
    assert (one["state"], one["cordoned"]["reason"], one["within_s"]) == ("cordoned", "fans", 300.0)
    assert "@" in one["cordoned"]["by"]

    assert braid("nodes", "clear", "gpu07").status == 0
    one = listed(braid)["gpu07"]
    assert (one["state"], one["strikes"], one["clears"], one["findings"]) == ("ok", 0, 1, [])


def test_a_machine_that_a_run_cordoned_says_which_run(braid: Braid) -> None:
    record(braid, Finding(at_s=60.0, machine="gpu07", run="first", attempt=2, cause="hardware", detail="Xid 79", strikes=2, cordons=True))

    assert listed(braid)["gpu07"]["cordoned"] == {"reason": "hardware: Xid 79", "by": "run first", "at_s": 60.0}


def test_a_machine_that_has_left_the_cluster_may_be_cordoned_before_it_is_back(braid: Braid, cluster: None) -> None:
    assert braid("nodes", "cordon", "gpu09", "--reason", "fans").status == 0


def test_a_machine_that_nobody_knows_is_refused_where_a_cluster_answers(braid: Braid, cluster: None) -> None:
    done = braid("nodes", "cordon", "gpu7", "--reason", "fans")
    assert done.status == 2
    assert done.err.startswith(
        "braid: machine 'gpu7': not in this cluster (another one: --address), and nothing is recorded of it; did you"
    )
    assert "gpu07" in done.err
    assert NodeRegistry(store_at(braid.root)).read() == []


def test_without_a_cluster_a_person_knows_best(braid: Braid) -> None:
    record(braid, FINDING)
    done = braid("nodes", "cordon", "gpu08", "--reason", "fans")
    assert (done.status, done.err.splitlines()[0]) == (0, "no cluster answers, so nothing says whether there is a machine gpu08")
    assert standings(NodeRegistry(store_at(braid.root)).read())["gpu08"].cordoned == "fans"


def test_what_is_cordoned_is_not_cordoned_again(braid: Braid) -> None:
    record(braid, Cordoned(at_s=120.0, machine="gpu07", reason="fans", by="ada@head"))
    done = braid("nodes", "cordon", "gpu07", "--reason", "disk")
    assert done.status == 2
    assert (
        "machine gpu07: is cordoned already, by ada@head on 1970-01-01 00:02 UTC (fans); for another reason, `braid nodes clear gpu07"
        in (done.err)
    )


@pytest.mark.parametrize(
    ("machine", "line"),
    [
        ("gpu7", "braid: machine 'gpu7': nothing was ever recorded of it; did you mean gpu07?\n"),
        ("rack3", "braid: machine 'rack3': nothing was ever recorded of it; `braid nodes --storage "),
        ("gpu07", "braid: machine gpu07: nothing is held against it; there is nothing to clear\n"),
    ],
)
def test_there_may_be_nothing_to_clear(machine: str, line: str, braid: Braid) -> None:
    record(braid, FINDING)
    braid("nodes", "clear", "gpu07")
    done = braid("nodes", "clear", machine)
    assert done.status == 2
    assert done.err.startswith(line)


def test_an_option_in_a_place_where_it_would_do_nothing_is_refused(braid: Braid) -> None:
    done = braid("nodes", "--storage", "/elsewhere", "cordon", "gpu07", "--reason", "fans")
    assert (done.status, done.err) == (2, "braid: --storage: write it behind the command, as in `braid nodes cordon … --storage …`\n")

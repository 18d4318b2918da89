"""What people are told of a run, and what they are woken for."""

from dataclasses import replace

import pytest

from data_pipeline.config import DataConfig, StorageConfig
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from model.train.metrics import StepMetrics
from orchestrator.config import ResourcesConfig, RunConfig, TrainConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesShort
from orchestrator.control.status import build_status, ranks_of
from orchestrator.records.ledger import StepRecord
from orchestrator.records.nodes import Standing
from orchestrator.telemetry import GpuLevels, HostLevels, NodeLevels
from tests.orchestrator.control.stories import (
    TERMS,
    agent,
    committed,
    failed,
    fault,
    gone,
    placed,
    play,
    rank,
    running,
    seen,
    submitted,
)

SHORT = NodesShort(at_s=1.0, attempt=0, text="waiting for nodes: needs 2 with 1 free slots, has 1")


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(
        name="r",
        model=ModelConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=1, head_dim=8, gdn_key_dim=8, gdn_value_dim=8, ffn_width=8),
        data=DataConfig(seq_len=8),
        storage=StorageConfig(root="/nowhere"),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=1000, batch_rows=2, micro_rows=1),
        parallel=ParallelConfig(dp_shard=2),
        resources=ResourcesConfig(device="cpu", workers_per_node=1),
    )


def test_a_healthy_run(config: RunConfig):
    look = seen(agent("a", rank(0, num_skipped=1)), agent("b", rank(1, step=8)), alive="abc", at_s=50.0)
    status = build_status("r", config, play(*running(), committed(1, 5)), look, now_s=50.5)
    assert (status["state"], status["step"], status["last_committed_step"], status["seen_s_ago"]) == ("running", 8, 5, 0.5)
    assert (status["nodes"], status["spares"], status["alerts"], status["strikes"], status["cordoned"]) == (["A", "B"], 1, [], {}, {})
    assert (status["num_workers"], status["skipped_updates"]) == (2, 1)
    assert (status["run"], status["attempt"], status["num_steps"], status["tokens"], status["live"]) == ("r", 1, 1000, 8 * 16, True)
    assert (status["restarts"], status["num_incidents"], status["incidents"], status["rejected_checkpoints"]) == (0, 0, [], [])
    first, second = status["workers"]
    assert first == {"rank": 0, "node": "a", "pid": 100, "phase": "training", "step": 7, "last_progress_s": 0.0, "silent_s": 0.0}
    assert (second["rank"], second["node"], second["step"]) == (1, "b", 8)


def test_ages_are_told_to_the_millisecond(config: RunConfig):
    look = seen(agent("a", rank(0, silent_s=0.12345, last_progress_s=2.00055)), at_s=50.0)
    status = build_status("r", config, play(*running()), look, now_s=50.12345)
    (worker,) = status["workers"]
    assert (status["seen_s_ago"], worker["silent_s"], worker["last_progress_s"]) == (0.123, 0.123, 2.001)


def test_a_node_that_has_no_workers_yet_is_passed_over(config: RunConfig):
    loss = StepMetrics(loss=2.5, grad_norm=1.0, tokens=16)
    look = seen(agent("c"), agent("a", rank(0)), agent("b", rank(1, metrics=loss, num_skipped=3, tokens_per_s=7.0)))
    status = build_status("r", config, play(*running()), look, now_s=50.5)
    assert (status["loss"], status["tokens_per_s"]) == (2.5, 7.0), "of a rank that has finished a step"
    assert (status["num_workers"], status["skipped_updates"], len(status["workers"])) == (2, 3, 2)


def test_a_run_whose_cluster_is_gone(config: RunConfig):
    status = build_status("r", config, play(*running(), committed(1, 5)), None, now_s=0.0)
    assert (status["live"], status["step"], status["num_workers"], status["workers"], status["spares"]) == (False, 5, 0, [], None)


def test_machines_are_shown_with_what_is_held_against_them(config: RunConfig):
    standings = {"A": Standing(strikes=2), "C": Standing(cordoned="its fan rattles"), "Z": Standing(strikes=9)}
    status = build_status("r", config, play(*running()), seen(alive="abc", standings=standings), now_s=0.0)
    assert (status["strikes"], status["cordoned"]) == ({"A": 2}, {"C": "its fan rattles"})


def test_the_ledger_tells_how_far_a_run_is_where_no_worker_can_be_asked(config: RunConfig):
    """Where one can, it has gone back to a checkpoint: what the ledger had after that is trained again."""
    last = StepRecord(
        loss=2.5, grad_norm=1.0, tokens=16, step=30, attempt=1, samples="", layout=ParallelConfig(), deterministic=True, setting=""
    )
    state = play(*running())
    steps = [build_status("r", config, state, look, 0.0, last)["step"] for look in (None, seen(), seen(agent("a", rank(0))))]
    assert steps == [30, 30, 7]


def test_workers_come_by_pages_of_64_with_their_ages_as_of_now(config: RunConfig):
    agents = [agent(f"n{number}", *(rank(number * 10 + local) for local in range(10)), age_s=2.0) for number in range(20)]
    state = play(submitted(replace(TERMS, workers_per_node=10, world_size=200)), placed(1, "ab"))
    pages = [build_status("r", config, state, seen(*reversed(agents)), 0.0, page=page) for page in (1, 2, 3, 4, 5)]
    ranks = [[worker["rank"] for worker in page["workers"]] for page in pages]
    assert ranks == [[*range(64)], [*range(64, 128)], [*range(128, 192)], [*range(192, 200)], []]
    assert {page["num_workers"] for page in pages} == {200}
    assert {worker["silent_s"] for worker in pages[0]["workers"]} == {2.0}


def test_of_workers_on_other_pages_no_report_is_looked_into(config: RunConfig):
    there = agent("b", *(rank(64 + local) for local in range(10)))
    assert there.report is not None
    others = (agent("a", rank(62), rank(63)), agent("c", rank(128), rank(129)))
    closed = [one._replace(report=replace(one.report, workers=None)) for one in others]  # type: ignore[arg-type, type-var]
    look = replace(seen(), agents=(closed[0], there, closed[1]))
    status = build_status("r", config, play(*running()), look, 0.0, page=2)
    assert [worker["rank"] for worker in status["workers"]] == [*range(64, 74)]


def test_an_incident_tells_from_where_the_run_went_on_and_without_which_machines(config: RunConfig):
    state = play(*running(), failed(1, fault(Cause.NODE_LOST, "b"), at_step=9), gone(1), *running(2, "ac"))
    (incident,) = build_status("r", config, state, None, now_s=0.0)["incidents"]
    assert (incident["source"], incident["left"], incident["resumed_from_step"]) == ("store", ["B"], 0)


def test_only_the_newest_incidents_are_shown_and_their_number(config: RunConfig):
    state = play(submitted(replace(TERMS, recovery=replace(TERMS.recovery, max_restarts=99))))
    for attempt in range(1, 61):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
    status = build_status("r", config, state, None, now_s=0.0)
    assert (status["num_incidents"], len(status["incidents"]), status["incidents"][-1]["attempt"]) == (60, 50, 60)


def test_a_shortage_is_told_as_it_is_now(config: RunConfig):
    state = play(submitted(), SHORT)
    assert build_status("r", config, state, seen(alive=""), 0.0)["reason"].endswith("has 0")
    assert build_status("r", config, state, None, 0.0)["reason"] == "waiting for nodes", "nobody has looked"
    told = build_status("r", config, state, seen(alive="ab"), 0.0)["reason"]
    assert told.endswith("has 1"), "nothing is known to be missing now"


def test_a_shortage_that_the_run_has_not_met_yet_is_not_its_reason(config: RunConfig):
    state = play(*running(), failed(1, fault(Cause.PEER_LOST)), gone(1))
    assert build_status("r", config, state, seen(alive=""), 0.0, in_stage_s=9.0)["reason"] == "recovering from peer_lost: it broke"


def test_while_a_wait_is_not_over_nothing_is_looked_for(config: RunConfig):
    """A controller that takes over waits as long again, whatever the one before was short of."""
    state = play(*running(), failed(1, fault(Cause.PEER_LOST)), gone(1), replace(SHORT, attempt=1))
    told = [build_status("r", config, state, seen(alive=""), 0.0, in_stage_s=in_stage_s)["reason"] for in_stage_s in (4.9, 5.0)]
    assert [one.rpartition(" ")[2] for one in told] == ["1", "0"]


def test_every_rank_is_told_by_node_and_a_node_that_says_nothing_is_told_too() -> None:
    state = play(*running())
    spoken = agent("a", rank(0), rank(1, step=6, last_progress_s=2.0), age_s=0.5)
    host = HostLevels(memory_available_bytes=1, memory_total_bytes=2, disk_free_bytes=1, disk_total_bytes=2)
    gpus = (GpuLevels(uuid="x", temperature_c=61.0), GpuLevels(uuid="y", temperature_c=74.0), GpuLevels(uuid="z"))
    assert spoken.report is not None
    hot = spoken._replace(report=replace(spoken.report, levels=NodeLevels(host=host, gpus=gpus)))
    ranks = [[0, "training", 7, 0.5], [1, "training", 6, 2.5]]
    silent = {"node": "b", "machine": "B", "hottest_c": None, "ranks": []}
    assert ranks_of(state, seen(hot)) == [{"node": "a", "machine": "A", "hottest_c": 74.0, "ranks": ranks}, silent]
    assert ranks_of(state, seen(spoken)) == [{"node": "a", "machine": "A", "hottest_c": None, "ranks": ranks}, silent]
    assert [node["ranks"] for node in ranks_of(state, None)] == [[], []]

"""A run's status as people see it."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from launch.runs.record import read_run
from launch.show.follow import status_line
from launch.show.render import incidents_view, status_view
from model.train.metrics import StepMetrics
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.status import build_status
from orchestrator.control.summary import summarise
from orchestrator.messages import AgentReport, DataUse, Outcome, WorkerReport
from tests.launch.stored_runs import RUNNING, status_of, stored_run
from tests.orchestrator.control.stories import ended, gone


def text_of(renderable: object, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_status_shows_workers_incidents_and_refused_checkpoints(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    worker = {"rank": 1, "node": "f" * 56, "pid": 77, "phase": "training", "step": 33, "last_progress_s": 0.25}
    incident = {
        "attempt": 1, "cause": "gpu_out_of_memory", "node": "f" * 56, "rank": 1, "step": 3, "at_step": 33, "detected_after_s": 0.5,
        "recovered_after_s": None, "resumed_from_step": None, "steps_replayed": None, "detail": "OutOfMemoryError: tried to allocate 1 GB",
    }  # fmt: skip
    text = text_of(
        status_view(
            status_of(
                tmp_path, workers=[worker], num_workers=1, incidents=[incident], rejected_checkpoints=["step 20: bad"], tokens_per_s=1234.5
            )
        )
    )
    for part in (
        "77",
        "ffffffff",
        "0.2 s ago",
        "gpu_out_of_memory",
        "attempt 1: OutOfMemoryError",
        "step 20: bad",
        "1,234 tokens/s",
    ):
        assert part in text, text
    assert "f" * 9 not in text


def test_alerts_stand_above_everything_but_the_headline(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    status = status_of(tmp_path, alerts=["3 checkpoints in a row were lost: rank 5 on gpu07 can't write"], reason="all is well")
    headline, alert, *rest = text_of(status_view(status)).splitlines()
    assert headline.startswith("first  running")
    assert alert == "! 3 checkpoints in a row were lost: rank 5 on gpu07 can't write"
    assert "all is well" in "".join(rest)


def test_strikes_and_cordons_are_shown_by_machine(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    assert "strikes: gpu07 2, gpu08 1" in text_of(status_view(status_of(tmp_path, strikes={"gpu07": 2, "gpu08": 1})))
    assert "cordoned: gpu01: fans" in text_of(status_view(status_of(tmp_path, cordoned={"gpu01": "fans"})))
    assert "gpu" not in text_of(status_view(status_of(tmp_path)))


def test_a_page_of_many_workers_says_which_they_are(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    workers = [{"rank": rank, "node": "a", "pid": 1, "phase": "training", "step": 1, "last_progress_s": 0.1} for rank in range(64, 128)]
    text = text_of(status_view(status_of(tmp_path, workers=workers, num_workers=16384)))
    assert "ranks 64 … 127 of 16,384 workers; others with --workers PAGE" in text
    assert "--workers" not in text_of(status_view(status_of(tmp_path, workers=workers, num_workers=64)))


def test_skipped_updates_are_told_while_a_run_goes_on(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    metrics = StepMetrics(loss=2.0, grad_norm=1.0, tokens=1024)
    workers = tuple(WorkerReport(rank=rank, pid=rank, step=60, metrics=metrics, num_skipped=41) for rank in range(2))
    agent = AgentSeen(node="a", report=AgentReport(node="a", attempt=1, workers=workers), summary=summarise(workers))
    seen = Observation(at_s=9.0, nodes=(), agents=(agent,))
    status = build_status("first", config, read_run(config.storage, "first").state, seen, 10.0)

    assert status["skipped_updates"] == 41
    assert "41 updates skipped" in text_of(status_view(status))
    assert status_line(status).endswith("step 60/200, loss 2.0000, 41 updates skipped")
    assert "skipped" not in status_line(status | {"skipped_updates": 0}) + status_line(status | {"skipped_updates": None})


def test_what_the_data_of_all_workers_cost_is_told(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    metrics = StepMetrics(loss=2.0, grad_norm=1.0, tokens=1024)
    used = [
        DataUse(fetched_bytes=6 * 10**8, used_bytes=55 * 10**7, wait_share=share, unread_rows=3, repetitive_rows=1200)
        for share in (0.002, 0.034)
    ]
    agents = []
    for rank, data in enumerate(used):
        workers = (WorkerReport(rank=rank, pid=rank, step=60, metrics=metrics, data=data),)
        agents.append(
            AgentSeen(node="ab"[rank], report=AgentReport(node="ab"[rank], attempt=1, workers=workers), summary=summarise(workers))
        )
    seen = Observation(at_s=9.0, nodes=(), agents=tuple(agents))
    status = build_status("first", config, read_run(config.storage, "first").state, seen, 10.0)

    told = "data: 1.2 GB fetched for 1.1 GB used, up to 3.4% of the step time waited for, 3 rows could not be read, 1,200 rows left out"
    assert told in " ".join(text_of(status_view(status)).split())
    assert "data:" not in text_of(status_view(status_of(tmp_path))), "the store alone knows nothing of it"


def test_incidents_fit_a_narrow_terminal() -> None:
    incident = {
        "attempt": 12, "cause": "gpu_out_of_memory", "node": "f" * 56, "rank": 127, "at_step": 123456, "detected_after_s": 12.34,
        "recovered_after_s": 123.45, "resumed_from_step": 123000, "steps_replayed": 456, "detail": "x",
    }  # fmt: skip
    assert len(text_of(incidents_view([incident])).splitlines()) == 3, "headers, one row, one detail"


def test_an_incident_tells_from_where_the_run_went_on_and_on_which_nodes() -> None:
    killed = {
        "attempt": 1, "cause": "killed", "node": "a", "rank": 1, "at_step": 33, "detected_after_s": 0.5, "recovered_after_s": 2.0,
        "resumed_from_step": 32, "steps_replayed": 1, "detail": "killed by SIGKILL", "source": "memory", "left": [],
    }  # fmt: skip
    lost = killed | {"cause": "node_lost", "detail": "the node left the cluster", "source": "store", "left": ["gpu07"]}
    assert "attempt 1: killed by SIGKILL; went on from memory, on the same nodes" in text_of(incidents_view([killed]))
    assert "attempt 1: the node left the cluster; went on from store, without gpu07" in text_of(incidents_view([lost]))
    assert "went on" not in text_of(incidents_view([lost | {"recovered_after_s": None}]))


def test_of_many_incidents_the_newest_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    incident = {
        "attempt": 73, "cause": "killed", "node": "a", "rank": 1, "at_step": 33, "detected_after_s": 0.5, "recovered_after_s": None,
        "resumed_from_step": None, "steps_replayed": None, "detail": "killed by SIGKILL",
    }  # fmt: skip
    text = text_of(status_view(status_of(tmp_path, incidents=[incident], num_incidents=73)))
    assert "72 earlier incidents, and the newest:" in text
    assert "earlier" not in text_of(status_view(status_of(tmp_path, incidents=[incident], num_incidents=1)))


def test_a_finished_run_needs_no_controller_to_be_told(tmp_path: Path) -> None:
    stored_run(tmp_path, (*RUNNING, ended(1, Outcome.FINISHED, 200), gone(1)))
    assert "no controller" not in text_of(status_view(status_of(tmp_path)))

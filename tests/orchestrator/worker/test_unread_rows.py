"""A shard is gone: the run ends with its name, or goes on without its rows and says which steps lack some."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.store.local import LocalStore
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.messages import Beat, Outcome
from orchestrator.records.ledger import read_ledger
from tests.orchestrator.worker.tiny_run import SEQ_LEN, create_run, proof_on, run_attempt, run_store_of, start_attempt, tiny_config


def without_a_shard(config: RunConfig) -> None:
    create_run(config)
    LocalStore(Path(config.storage.root)).delete("datasets/noise/1.bin")


def skipping(config: RunConfig) -> RunConfig:
    return replace(config, data=replace(config.data, on_corrupt="skip"))


def unread_by_step(config: RunConfig) -> dict[int, int]:
    (records,) = read_ledger(run_store_of(config)).values()
    assert all(record.tokens == config.tokens_per_step - SEQ_LEN * record.unread_rows for record in records)
    return {record.step: record.unread_rows for record in records}


def test_a_run_that_skips_says_what_it_did_not_train_on_the_same_under_each_layout(tmp_path: Path):
    found = []
    for name, layout in (("dp", {"dp_shard": 2}), ("tp", {"tp": 2})):
        config = skipping(tiny_config(tmp_path / name / "store", **layout))
        without_a_shard(config)
        attempt = run_attempt(config, 1, tmp_path / name)
        assert attempt.ended.outcome is Outcome.FINISHED
        found.append(unread_by_step(config))
        told = attempt.workers[0].last(Beat).data
        assert told.unread_rows == sum(found[-1].values())
        assert told.fetched_bytes > told.used_bytes > 0
        assert 0 <= told.wait_share <= 1
        assert (
            attempt.log.count("noise/1.bin: is in the manifest but not in the store; rows of this shard that can't be read are skipped")
            == 1
        )
    assert found[0] == found[1]
    num_rows, steps = sum(found[0].values()), [step for step, rows in found[0].items() if rows]
    proof = proof_on(config)
    assert proof.ok, proof.problems
    assert f"{num_rows} rows could not be read and NOT TRAINED ON (steps {', '.join(map(str, steps))})" in proof.line
    assert f"8 steps, {8 * 4 * SEQ_LEN - SEQ_LEN * num_rows} tokens" in proof.line
    assert f"but for {len(steps)} steps with rows that could not be read" in proof.line


def test_a_run_that_ended_because_of_a_shard_goes_on_without_it(tmp_path: Path):
    config = tiny_config(tmp_path / "store")
    without_a_shard(config)
    with start_attempt(config, 1, tmp_path) as attempt:
        assert attempt.finish() == [1]
    assert attempt.failed.error_type == "ShardMissing"
    assert "noise/1.bin: is in the manifest but not in the store" in attempt.failed.text
    run_store_of(config).create("config/0002.json", codec.to_json(skipping(config)))
    with start_attempt(config, 2, tmp_path, config_version=2) as attempt:
        assert attempt.finish() == [0], attempt.log
    assert proof_on(skipping(config)).ok


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_share_rows_and_cant_all_read_them_are_found_out(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The model would see one row on one rank and another one on the other."""
    config = skipping(tiny_config(tmp_path / "store", tp=2))
    create_run(config)
    monkeypatch.setenv("BLIND_RANK", str(rank))
    with start_attempt(config, 1, tmp_path, module="tests.orchestrator.worker.blind_worker") as attempt:
        assert attempt.finish() == [1, 1]
    assert attempt.failed.error_type == "ShardCorrupt"
    assert "of ranks that share rows only some can read them" in attempt.failed.text
    assert read_ledger(run_store_of(config)) == {}

"""A worker does not train on kernels that compute something else than they should."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from orchestrator.errors import Diverged, HostCorrupts, KernelsWrong, PeerFailed
from orchestrator.worker import session, verdicts
from orchestrator.worker.session import require_right_kernels, warm_up
from tests.model.kernels.delta_rule import fake_fla

MODEL = replace(PRESETS["tiny"], gdn_backend="fla")
CPU = torch.device("cpu")


def test_right_kernels_are_told_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    fake_fla.install(monkeypatch)

    with caplog.at_level("INFO"):
        require_right_kernels(MODEL, ParallelConfig(tp=2), CPU, tmp_path)

    assert caplog.messages[0].startswith("the kernels of model.gdn_backend=fla are right on cpu (")


def test_wrong_ones_end_the_worker_with_their_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fla = fake_fla.install(monkeypatch)
    monkeypatch.setattr(
        sys.modules["fla.ops.gated_delta_rule.chunk"],
        "chunk_gated_delta_rule_bwd",
        lambda **call: [2 * x for x in fla.backward(**call)[:5]],
    )

    with pytest.raises(KernelsWrong, match=r"^cpu: delta rule, gradient of q: 1 off, 0\.02 allowed; gdn_backend fla, 2 heads × \(32, 64\)"):
        require_right_kernels(MODEL, ParallelConfig(tp=2), CPU, tmp_path)


def test_a_model_without_gdn_layers_needs_none(tmp_path: Path):
    require_right_kernels(replace(MODEL, layer_pattern="attn"), ParallelConfig(), CPU, tmp_path)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[ParallelConfig]:
    """Those that were made, of right kernels on a device that is taken for a GPU."""
    made: list[ParallelConfig] = []
    monkeypatch.setattr(verdicts, "uuid_of", lambda device: "GPU-1")
    monkeypatch.setattr(session, "find_wrong_kernel", lambda model, parallel, **_: made.append(parallel))
    return made


def test_kernels_that_were_right_on_a_gpu_are_not_checked_there_again(checks: list[ParallelConfig], tmp_path: Path):
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert len(checks) == 1


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("uuid_of", lambda device: "GPU-2"),
        ("code_digest", lambda: "other code"),
        ("_versions", lambda: {"torch": "3.0"}),
        ("DRIVER", Path(__file__)),
        ("BOOT", Path(__file__)),
    ],
)
def test_another_gpu_code_compiler_driver_or_boot_is_another_check(
    checks: list[ParallelConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, changed: object
):
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    monkeypatch.setattr(verdicts, name, changed)
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert len(checks) == 2


def test_other_heads_of_a_rank_are_another_check(checks: list[ParallelConfig], tmp_path: Path):
    for parallel in (ParallelConfig(), ParallelConfig(tp=2)):
        require_right_kernels(MODEL, parallel, CPU, tmp_path)

    assert len(checks) == 2


def test_a_verdict_that_is_damaged_is_a_check_again(checks: list[ParallelConfig], tmp_path: Path):
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    [kept] = tmp_path.glob("kernels/*")
    kept.write_bytes(kept.read_bytes()[:-7])
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert len(checks) == 2


def test_a_verdict_of_yesterday_is_a_check_again_which_counts_from_then_on(checks: list[ParallelConfig], tmp_path: Path):
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    [kept] = tmp_path.glob("kernels/*")
    yesterday_s = kept.stat().st_mtime - verdicts.COUNTS_FOR_S
    os.utime(kept, (yesterday_s, yesterday_s))
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)
    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert len(checks) == 2


@pytest.mark.parametrize(
    ("error", "num_checks"),
    [
        (Diverged("step 7: the loss is nan"), 2),
        (HostCorrupts("read as something else"), 2),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), 2),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), 2),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1),
        (PeerFailed("rank 3 has gone"), 1),
    ],
)
def test_after_a_failure_that_kernels_may_be_to_blame_for_they_are_checked_again(
    checks: list[ParallelConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, num_checks: int
):
    config = SimpleNamespace(model=MODEL, parallel=ParallelConfig(), data=SimpleNamespace(document_masking=True))
    monkeypatch.setattr(session, "build_world", lambda *_: SimpleNamespace(device=CPU))
    monkeypatch.setattr(session, "build_trainer", lambda *_, **__: SimpleNamespace(run=lambda: raises(error)))

    for _ in range(2):
        with pytest.raises(type(error)):
            session.train_once(config, None, attempt_number=1, reporter=None, stop=threading.Event(), cache_dir=tmp_path)

    assert len(checks) == num_checks


def raises(error: Exception) -> None:
    raise error


def test_a_wrong_kernel_is_never_kept(checks: list[ParallelConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with monkeypatch.context() as broken:
        broken.setattr(session, "find_wrong_kernel", lambda *_, **__: "delta rule: wrong")
        for _ in range(2):
            with pytest.raises(KernelsWrong):
                require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert list(tmp_path.glob("kernels/*")) == []


def test_who_stands_by_has_digested_the_code_that_it_imported_before_that_can_be_edited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.worker.session.IMPORTED_LATE", ("json",))
    verdicts.code_digest.cache_clear()

    next(warm_up())

    assert verdicts.code_digest.cache_info().currsize == 1


def test_a_verdict_that_can_not_be_written_is_no_loss(checks: list[ParallelConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "kernels").write_text("not a directory")

    require_right_kernels(MODEL, ParallelConfig(), CPU, tmp_path)

    assert "the next attempt checks its kernels again" in caplog.text

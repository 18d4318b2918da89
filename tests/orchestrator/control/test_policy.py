"""What an exit status and an error text mean."""

from collections.abc import Mapping

import pytest

from orchestrator.control.placement import Node, place
from orchestrator.control.policy import VERDICTS, Cause, backoff_s, classify
from orchestrator.messages import Failed


@pytest.mark.parametrize(
    ("exit_code", "error", "cause"),
    [
        (-9, None, Cause.KILLED),
        (-11, None, Cause.KILLED),
        (1, None, Cause.CRASHED),
        (0, None, Cause.CRASHED),
        (1, ("ConfigMismatch", "train.seed changed"), Cause.CONFIG),
        (1, ("ShardMissing", "x is in the manifest"), Cause.CONFIG),
        (1, ("StoreUnavailable", "no answer for 60 s"), Cause.STORE),
        (1, ("Fenced", "attempt 3 has begun"), Cause.FENCED),
        (1, ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB"), Cause.GPU_OUT_OF_MEMORY),
        (1, ("KernelsWrong", "GPU 3 (NVIDIA H200): delta rule, gradient of k: 0.4 off"), Cause.KERNELS),
        (1, ("AcceleratorError", "CUDA error: uncorrectable ECC error encountered"), Cause.HARDWARE),
        (1, ("RuntimeError", "NVLink fault, Xid 74"), Cause.HARDWARE),
        (1, ("KeyError", "'taxid'"), Cause.CRASHED),
        (1, ("AccessDenied", "the token has expired"), Cause.ACCESS),
        (1, ("CacheUnusable", "/data/cache is read-only"), Cause.HARDWARE),
        (1, ("ShardCorrupt", "digest"), Cause.CRASHED),
        (1, ("DistBackendError", "NCCL communicator was aborted on rank 3"), Cause.PEER_LOST),
        (1, ("RuntimeError", "[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:55"), Cause.PEER_LOST),
        (1, ("ValueError", "shapes do not match"), Cause.CRASHED),
        (None, ("ValueError", "still exiting"), Cause.CRASHED),
    ],
)
def test_causes(exit_code: int | None, error: tuple[str, str] | None, cause: Cause):
    failed = Failed(error_type=error[0], text=error[1]) if error else None
    assert classify(exit_code, failed)[0] is cause


def test_the_detail_is_one_line_that_says_what_happened():
    assert classify(-9, None)[1] == "killed by SIGKILL"
    assert classify(-99, None)[1] == "killed by signal 99"
    assert classify(3, None)[1] == "exit status 3 without a word; see its log"
    assert classify(1, Failed(error_type="ValueError", text="no"))[1] == "ValueError: no"


def test_every_cause_has_a_verdict():
    assert set(VERDICTS) == set(Cause)


def test_the_backoff_doubles_up_to_its_limit_and_never_overflows():
    assert [backoff_s(n, 2.0, 9.0) for n in (1, 2, 3, 4, 5, 10_000)] == [0.0, 2.0, 4.0, 8.0, 9.0, 9.0]


NO_STRIKES: Mapping[str, int] = {}


def known(**slots: int) -> dict[str, Node]:
    return {name: Node(node=name, slots=number) for name, number in slots.items()}


def places(
    free: dict[str, Node],
    *,
    num_nodes: int = 2,
    slots: int = 8,
    strikes: Mapping[str, int] = NO_STRIKES,
    barred: str = "",
    previous: str = "",
) -> str:
    return "".join(place(free, strikes=strikes, barred=barred, num_nodes=num_nodes, slots=slots, previous=tuple(previous)))


def test_placement_prefers_clean_nodes_then_warm_ones():
    free = known(a=8, b=8, c=8, d=8)
    assert places(free) == "ab"
    assert places(free, previous="db") == "db", "ranks stay where they were"
    assert places(free, strikes={"d": 1}, previous="db") == "ba"


def test_placement_takes_a_struck_node_when_it_must_and_a_barred_one_never():
    free = known(a=8, b=8)
    assert places(free, strikes={"a": 99}) == "ab"
    assert places(free, barred="a") == ""


def test_nodes_with_too_few_slots_do_not_count():
    assert places(known(a=8, b=4)) == ""

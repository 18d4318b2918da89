"""What an exit status and an error text mean."""

import pytest

from orchestrator.control.causes import Cause, classify
from orchestrator.errors import ERRORS
from orchestrator.messages import Failed


@pytest.mark.parametrize(
    ("exit_code", "error", "cause"),
    [
        (-9, None, Cause.KILLED),
        (-6, None, Cause.ABORTED),
        (-11, None, Cause.CRASHED),
        (-15, None, Cause.LEAVING),
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
        (1, ("CacheUnusable", "/data/cache: can't keep shards here ([Errno 28] No space left on device)"), Cause.DISK_FULL),
        (1, ("OSError", "[Errno 122] Disk quota exceeded"), Cause.DISK_FULL),
        (1, ("StoreUnavailable", "the store says: no space left on device"), Cause.STORE),
        (1, ("DistNetworkError", "timed out after 600 s"), Cause.PEER_LOST),
        (1, ("DistStoreError", "wait interrupted"), Cause.PEER_LOST),
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
    assert classify(-1, None)[1] == "killed by SIGHUP"
    assert classify(-99, None)[1] == "killed by signal 99"
    assert classify(3, None)[1] == "exit status 3 without a word; see its log"
    assert classify(0, None)[1] == "exit status 0 without a word; see its log"
    assert classify(1, Failed(error_type="ValueError", text="no"))[1] == "ValueError: no"


TEXTS = {
    "-": "it broke",
    "o": "CUDA out of memory",
    "h": "an NVLink fault",
    "p": "Broken pipe",
    "oh": "out of memory, ecc error",
    "op": "out of memory, socket timeout",
    "hp": "Xid 74, broken pipe",
    "dh": "no space left on device, an NVLink fault",
}
"""Words of each kind that tell something, and mixtures of two kinds."""
BY_TEXT = "crashed gpu_out_of_memory hardware peer_lost gpu_out_of_memory gpu_out_of_memory hardware disk_full"
BY_NAME_AND_TEXT = {
    "CacheUnusable": "hardware gpu_out_of_memory hardware hardware gpu_out_of_memory gpu_out_of_memory hardware disk_full",
    "DistBackendError": "peer_lost gpu_out_of_memory hardware peer_lost gpu_out_of_memory gpu_out_of_memory hardware disk_full",
    "DistNetworkError": "peer_lost gpu_out_of_memory hardware peer_lost gpu_out_of_memory gpu_out_of_memory hardware disk_full",
}
BY_NAME_AND_TEXT |= {"HostCorrupts": BY_NAME_AND_TEXT["CacheUnusable"], "PeerFailed": BY_NAME_AND_TEXT["DistBackendError"]}
BY_NAME_AND_TEXT["OutOfMemoryError"] = "gpu_out_of_memory " * (len(TEXTS) - 1) + "disk_full"
BY_NAME = {
    "ConfigMismatch": "config",
    "NoCheckpoint": "config",
    "Diverged": "diverged",
    "DatasetMissing": "config",
    "PackingMissing": "config",
    "DatasetTooSmall": "config",
    "ManifestInvalid": "config",
    "ShardMissing": "config",
    "DecodeError": "config",
    "StoreUnavailable": "store",
    "AccessDenied": "access",
    "BucketMissing": "access",
    "Fenced": "fenced",
    "KernelsWrong": "kernels",
}
UNNAMED = (
    "CheckpointCorrupt", "StoreError", "KeyMissing", "KeyExists", "InvalidKey", "DataError", "DatasetExists", "ShardCorrupt",
    "CorpusInvalid", "TokenizerInvalid", "JournalBroken", "Superseded", "SpawnFailed", "RuntimeError",
)  # fmt: skip


@pytest.mark.parametrize("name", [*BY_NAME, *BY_NAME_AND_TEXT, *UNNAMED])
def test_the_whole_table_of_names_and_texts(name: str):
    found = [classify(1, Failed(error_type=name, text=text))[0].value for text in TEXTS.values()]
    assert found == ([BY_NAME[name]] * len(TEXTS) if name in BY_NAME else BY_NAME_AND_TEXT.get(name, BY_TEXT).split())


@pytest.mark.parametrize("name", [name for name, kind in ERRORS.items() if kind.cause])
def test_the_table_above_misses_no_error_with_a_cause(name: str):
    assert name in (*BY_NAME, *BY_NAME_AND_TEXT)


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        *((Cause.HARDWARE, text) for text in (
            "uncorrectable", "ECC error", "NVLink", "device-side hardware", "GPU has fallen off the bus",
            "CUDA error: unspecified launch failure", "NVRM: Xid (PCI:0000:b1:00): 79",
        )),
        *((Cause.DISK_FULL, text) for text in ("No space left on device", "Disk quota exceeded", "[Errno 28] /x", "[Errno 122] /x")),
        *((Cause.PEER_LOST, text) for text in (
            "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "remote process exited",
            "NCCL communicator was aborted", "unhandled system error", "Socket Timeout", "Read timeout", "Timed out after 600 s",
        )),
    ],
)  # fmt: skip
def test_words_that_tell_the_cause(cause: Cause, text: str):
    assert classify(1, Failed(error_type="RuntimeError", text=f"[rank 3] {text}."))[0] is cause

"""The models are transformers' OlmoHybridForCausalLM and Olmo3ForCausalLM: logits, loss, every gradient, and documents in packed rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from model.documents import Documents, build_documents
from model.layers.head import IGNORED
from model.lm import HybridLM
from model.weights.hf.files import open_hf
from model.weights.hf.pretrained import load_pretrained
from tests.model.weights.hf.oracle import CASES, NUM_ROWS, Case

pytestmark = pytest.mark.xdist_group("hf_oracle")
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CPU = torch.device("cpu")
ORACLE = Path(__file__).with_name("oracle.py")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per case; see `oracle.py`."""
    directory = tmp_path_factory.mktemp("oracle")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ORACLE), str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return directory


@every_case
def test_logits_are_those_of_transformers(oracle: Path, case: Case) -> None:
    theirs, module = results(oracle, case), load_pretrained(oracle / case.name / "model")
    assert (module(theirs["tokens"]) - theirs["logits"]).abs().max() < 2e-5


@every_case
def test_loss_and_every_gradient_are_those_of_transformers(oracle: Path, case: Case) -> None:
    theirs, module = results(oracle, case), load_pretrained(oracle / case.name / "model")
    loss = mean_loss(module, theirs["tokens"])
    loss.backward()
    assert loss.item() == pytest.approx(theirs["loss"].item(), abs=1e-5)
    gradients = open_hf(oracle / case.name / "gradients")
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert relative(parameter.grad, gradients.read(name)) < 1e-4, name


@every_case
def test_bf16_stays_within_its_rounding_and_the_gates_stay_fp32(oracle: Path, case: Case) -> None:
    theirs, module = results(oracle, case), load_pretrained(oracle / case.name / "model", dtype=torch.bfloat16)
    logits_BTX = module(theirs["tokens"])
    assert logits_BTX.dtype == torch.bfloat16
    assert relative(logits_BTX.float(), theirs["bf16_logits"].float()) < 0.1
    loss = F.cross_entropy(logits_BTX[:, :-1].flatten(0, 1).float(), theirs["tokens"][:, 1:].flatten())
    assert loss.item() == pytest.approx(theirs["bf16_loss"].item(), abs=5e-3)
    assert loss.item() == pytest.approx(theirs["loss"].item(), abs=5e-3)
    for name, parameter in module.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("gates.") else torch.bfloat16), name


@every_case
def test_a_packed_document_gets_the_logits_that_transformers_gives_it_alone(oracle: Path, case: Case) -> None:
    theirs, module = results(oracle, case), load_pretrained(oracle / case.name / "model")
    packed_BTX = module(theirs["tokens"], documents_of(case))
    assert (packed_BTX - theirs["each_document_alone"]).abs().max() < 2e-5
    assert (packed_BTX - theirs["logits"]).abs().max() > 1e-2


@every_case
def test_transformers_loads_what_is_exported_and_computes_the_same(oracle: Path, case: Case) -> None:
    said = json.loads((oracle / case.name / "loading.json").read_text())
    assert said == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    theirs = results(oracle, case)
    assert torch.equal(theirs["exported_logits"], theirs["logits"])


def results(oracle: Path, case: Case) -> dict[str, Tensor]:
    return load_file(oracle / case.name / "oracle.safetensors")


def mean_loss(module: HybridLM, tokens_BT: Tensor) -> Tensor:
    """By the path that training takes, in chunks that don't divide T."""
    labels_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORED)
    return module.loss_sum(tokens_BT, labels_BT, z_loss=0.0, chunk_tokens=24)[0] / (labels_BT != IGNORED).sum()


def documents_of(case: Case) -> Documents:
    starts = [row * case.num_tokens + start for row in range(NUM_ROWS) for start in (0, *case.cuts)]
    return build_documents(torch.tensor([*starts, NUM_ROWS * case.num_tokens]), num_rows=NUM_ROWS, num_tokens=case.num_tokens, device=CPU)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()

"""`braid import`, `export` and `average` as a person types them, and what the other commands say of a run that is only weights."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from data_pipeline.dataset.tokenizer import EOS_TOKEN, train_tokenizer
from launch.runs.record import reserve_name, run_store_of
from launch.weights.hugging_face import name_from
from model.weights.hf.files import write_hf
from model.weights.hf.serving import Serving
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.manifest import read_manifest, write_manifest
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.weights import write_weights
from tests.launch.command_line import Braid
from tests.launch.commands.test_status import STATUS_KEYS
from tests.launch.stored_runs import put_checkpoint, put_dataset, store_at, stored_run
from tests.orchestrator.worker.ranks import begin
from tests.orchestrator.worker.test_weights import InMemory, random_weights
from tests.orchestrator.worker.tiny_run import MODEL

SERVING = Serving(eos_token_id=7, pad_token_id=9, max_position_embeddings=4096)


def released(directory: Path, source: InMemory | None = None) -> Path:
    """A Hugging Face directory as one downloads it."""
    write_hf(directory, source or random_weights(1), MODEL, serving=SERVING)
    (directory / "tokenizer.json").write_bytes(b'{"version": "1.0"}\r\n')
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "README.md").write_text("a card")
    return directory


def tensors_in(directory: Path) -> dict[str, Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


def test_an_import_and_an_export_later_every_bit_is_the_same(braid: Braid, tmp_path: Path) -> None:
    hf = released(tmp_path / "OLMo Hybrid")

    imported = braid("import", str(hf))
    exported = braid("export", "OLMo-Hybrid", "--out", str(tmp_path / "out"))

    assert (imported.status, imported.out) == (0, "OLMo-Hybrid\n")
    assert "start.run=OLMo-Hybrid" in imported.err
    assert (exported.status, exported.out) == (0, f"{tmp_path / 'out'}\n")
    assert_same_bits(tensors_in(tmp_path / "out"), tensors_in(hf))
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (hf / name).read_bytes(), name
    assert not (tmp_path / "out" / "README.md").exists(), "what is said of the old weights is not said of these"
    assert [path.name for path in (tmp_path / "home" / "cache").iterdir()] == [], "nothing is left in the cache"


def test_weights_that_are_not_finite_are_neither_exported_nor_averaged(braid: Braid, tmp_path: Path) -> None:
    """As an earlier version may have committed them."""
    ruined = random_weights(1)
    ruined.held["head.weight"].view(-1)[-1] = torch.inf
    companions = {"config.json": b'{"max_position_embeddings": 64, "eos_token_id": 7, "pad_token_id": 9}'}
    for name, source in (("ruined", ruined), ("good", random_weights(2))):
        write_weights(reserve_name(store_at(braid.root), name), source, run=name, model=MODEL, origin="trained", companions=companions)

    for arguments in (["export", "ruined", "--out", str(tmp_path / "out")], ["average", "good", "ruined", "--name", "mean"]):
        done = braid(*arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.splitlines()[-1].startswith(
            "braid: ruined@0: head.weight is not finite, training had diverged; use an earlier step"
        )
    assert not (tmp_path / "out").exists()


def test_an_export_can_be_of_another_dtype(braid: Braid, tmp_path: Path) -> None:
    braid("import", str(released(tmp_path / "hf", random_weights(1, torch.float32))))

    braid("export", "hf", "--out", str(tmp_path / "out"), "--dtype", "bfloat16")

    dtypes = {name: tensor.dtype for name, tensor in tensors_in(tmp_path / "out").items()}
    assert dtypes["lm_head.weight"] == torch.bfloat16
    assert dtypes["model.layers.0.linear_attn.A_log"] == torch.float32
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["export", "hfx", "--out", "new"], "run 'hfx': not in {root}; did you mean hf?"),
        (["export", "hf", "--step", "5", "--out", "new"], "run hf: has no checkpoint of step 5; use one of 0"),
        (["export", "hf", "--out", "."], ".: is there already; name a directory that does not exist yet"),
        (["import", "{hf}", "--name", "hf"], "run hf: exists already; choose another name with --name"),
        (["import", "{hf}", "--name", "../x"], "name='../x': use up to 63 letters"),
        (["average", "hf", "hf@x", "--name", "mean"], "hf@x: the step is not a number; write RUN@STEP"),
        (["average", "hf@0", "--name", "mean"], "braid average: 1 checkpoint is its own mean; name two or more"),
        (["average", "hf@0", "gone@2", "--name", "mean"], "run 'gone': not in {root}"),
        (["average", "hf@0", "other@0", "--name", "hf"], "run hf: exists already"),
        (["average", "hf@0", "other", "hf", "--name", "mean"], "hf@0: is among the checkpoints twice; name each once"),
        (["export", "hf", "--out", "hf/config.json/x"], "hf/config.json/x: a part of this path is a file and no directory; choose another"),
        (["export", "hf", "--out", "/proc/nowhere/x"], "/proc/nowhere/x: can't be written (No such file or directory); choose another"),
        (["export", "hf", "--out", "hf/config.json"], "hf/config.json: is there already; name a directory"),
        (["import", "{hf}/config.json"], "{hf}/config.json: not a directory; name the one that holds config.json"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hf = released(tmp_path / "hf")
    braid("import", str(hf))
    braid("import", str(hf), "--name", "other")

    done = braid(*(argument.format(hf=hf) for argument in arguments))

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: " + line.format(root=braid.root, hf=hf))
    assert done.err.count("\n") == 1


def test_a_companion_that_could_not_be_read_again_is_refused(braid: Braid, tmp_path: Path) -> None:
    hf = released(tmp_path / "hf")
    tokenizer = hf / "tokenizer.json"
    for spoil, said in (
        (lambda: tokenizer.write_text("{"), "tokenizer.json: not JSON ("),
        (
            lambda: tokenizer.write_text('{"x":' + "[" * 100_000 + "]" * 100_000 + "}"),
            "tokenizer.json: not JSON (it is nested too deep); download",
        ),
        (tokenizer.unlink, ""),
        (lambda: tokenizer.symlink_to("gone"), "tokenizer.json: not a file; put the model's own there, or remove it"),
    ):
        spoil()
        if said:
            done = braid("import", str(hf))
            assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
            assert said in done.err
    assert json.loads(braid("runs", "--json").out or "[]") == []


def test_weights_that_are_not_finite_make_no_run(braid: Braid, tmp_path: Path) -> None:
    """A_log is −∞ where an initialisation drew a rate of nought: it trains to NaN."""
    source = random_weights(1)
    source.held["gates.0.A_log"][1] = -torch.inf
    hf = released(tmp_path / "hf", source)

    done = braid("import", str(hf))

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: model.layers.0.linear_attn.A_log: has values that are not finite, in ")
    assert json.loads(braid("runs", "--json").out or "[]") == []


def test_a_directory_that_is_not_a_model_is_one_line_and_makes_no_run(braid: Braid, tmp_path: Path) -> None:
    hf = released(tmp_path / "hf")
    config = json.loads((hf / "config.json").read_text()) | {"model_type": "llama"}
    (hf / "config.json").write_text(json.dumps(config))

    done = braid("import", str(hf))

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: config.json model_type='llama': not known here")
    assert json.loads(braid("runs", "--json").out or "[]") == []


@pytest.mark.parametrize("command", ["status", "stop", "resume", "verify", "logs"])
def test_what_speaks_of_training_says_that_there_is_none(command: str, braid: Braid, tmp_path: Path) -> None:
    hf = released(tmp_path / "hf")
    braid("import", str(hf))

    done = braid(command, "hf")

    assert (done.status, done.out) == (2, "")
    assert done.err == f"braid: run hf: holds weights only (imported from {hf}), no training; begin one from them with start.run=hf\n"


def test_weights_are_listed_beside_runs(braid: Braid, tmp_path: Path) -> None:
    stored_run(braid.root)
    hf = released(tmp_path / "hf")
    braid("import", str(hf))

    first, weights = json.loads(braid("runs", "--json").out)

    assert (first["run"], first["state"]) == ("first", "queued")
    assert (weights["run"], weights["state"], weights["reason"]) == ("hf", "weights", f"imported from {hf}")
    assert weights.keys() == first.keys() >= STATUS_KEYS
    assert "weights" in braid("runs").out


def test_the_checkpoint_of_weights_is_listed_and_proved(braid: Braid, tmp_path: Path) -> None:
    braid("import", str(released(tmp_path / "hf")))

    (row,) = json.loads(braid("checkpoints", "hf", "--verify", "--json").out)
    assert (row["step"], row["layout"], row["state"]) == (0, "weights only", "verified")

    next((braid.root / "runs/hf/checkpoints").glob("*/companions/tokenizer.json")).write_text("{}")
    done = braid("checkpoints", "hf", "--verify")
    assert done.status == 1
    assert "companions/tokenizer.json has 2 bytes" in done.err


def test_the_name_of_weights_is_taken(braid: Braid, tmp_path: Path) -> None:
    braid("import", str(released(tmp_path / "hf")))

    done = braid("submit", "tiny", "name=hf")

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: name=hf: holds weights only (imported from ")
    assert done.err.endswith("train from them with start.run=hf and another name=…\n")


def test_an_average_is_a_run_like_an_imported_one(braid: Braid, tmp_path: Path) -> None:
    sources = [random_weights(seed) for seed in (1, 2, 3)]
    for number, source in enumerate(sources):
        braid("import", str(released(tmp_path / f"hf{number}", source)))

    averaged = braid("average", "hf0@0", "hf1", "hf2", "--name", "soup")
    braid("export", "soup", "--out", str(tmp_path / "out"))

    assert (averaged.status, averaged.out) == (0, "soup\n")
    assert "average of hf0@0, hf1@0, hf2@0" in averaged.err
    mean = sum(source.held["head.weight"].double() for source in sources) / 3
    assert torch.equal(tensors_in(tmp_path / "out")["lm_head.weight"], mean.float())
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b'{"version": "1.0"}\r\n'
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 7


def test_different_models_are_not_averaged(braid: Braid, tmp_path: Path) -> None:
    braid("import", str(released(tmp_path / "hf")))
    put_checkpoint(braid.root, stored_run(braid.root), attempt=1, step=5)

    done = braid("average", "hf", "first@5", "--name", "soup")

    assert (done.status, done.out) == (2, "")
    assert done.err == "braid: first@5: model.vocab_size is 4096 there and 256 in hf@0; average checkpoints of one model\n"


def trained_run(root: Path) -> InMemory:
    """The run `first` with a checkpoint of step 3, and its dataset's tokenizer."""
    config = stored_run(root)
    source = random_weights(4, torch.float32)
    state = {f"model.{name}": tensor for name, tensor in source.held.items()} | {"optimizer.norm.weight.step": torch.tensor(3.0)}
    exchange = Exchange(dist.HashStore(), rank=0, world_size=1)
    training = begin(run_store_of(store_at(root), config.name), exchange, 1, like=state)
    training.record(3)
    training.checkpointer.save(3, state)
    training.checkpointer.wait()
    tokenizer = train_tokenizer(["a text of few words"], 300)
    store_at(root).put(put_dataset(root).tokenizer_key, tokenizer.to_str().encode())
    return source


def test_a_trained_run_is_exported_with_its_datasets_tokenizer(braid: Braid, tmp_path: Path) -> None:
    source = trained_run(braid.root)

    done = braid("export", "first", "--step", "3", "--out", str(tmp_path / "out"))

    assert (done.status, done.err) == (0, "step 3 of run first (trained)\n")
    tensors = tensors_in(tmp_path / "out")
    assert len(tensors) == len(source.held), "weights, and nothing of the optimizer"
    assert torch.equal(tensors["model.embed_tokens.weight"], source.held["embed.weight"])
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).token_to_id(EOS_TOKEN) == 0
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == EOS_TOKEN
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (0, 128)


def test_weights_outlive_their_dataset(braid: Braid, tmp_path: Path) -> None:
    trained_run(braid.root)
    store_at(braid.root).delete("datasets/python-stdlib/manifest.json")

    done = braid("export", "first", "--out", str(tmp_path / "out"))

    assert done.status == 0
    assert done.err.startswith("without a tokenizer: ")
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_an_interrupted_import_holds_no_name(braid: Braid, tmp_path: Path) -> None:
    store_at(braid.root).put("run-names/hf", b"")
    hf = released(tmp_path / "hf")

    assert json.loads(braid("runs", "--json").out or "[]") == []
    assert braid("import", str(hf)).status == 0
    assert [run["run"] for run in json.loads(braid("runs", "--json").out)] == ["hf"]


def test_a_checkpoint_of_another_version_is_one_line(braid: Braid, tmp_path: Path) -> None:
    braid("import", str(released(tmp_path / "hf")))
    run_store = run_store_of(store_at(braid.root), "hf")
    log = open_commit_log(run_store)
    manifest = read_manifest(run_store, log.trusted()[0])
    log.fence(2)
    log.commit(write_manifest(run_store, dataclasses.replace(manifest, version=2, attempt=2)))

    done = braid("export", "hf", "--out", str(tmp_path / "out"))

    assert done.status == 2
    assert "manifest.json: is of version 2, this braid reads 3; use the braid that wrote it" in done.err


@pytest.mark.parametrize(
    ("directory", "name"), [("OLMo Hybrid 7B!", "OLMo-Hybrid-7B-"), ("_x", "x"), ("ä-1.0", "1.0"), ("a" * 80, "a" * 63)]
)
def test_a_name_is_made_of_the_directorys(directory: str, name: str) -> None:
    assert name_from(Path("/tmp") / directory) == name

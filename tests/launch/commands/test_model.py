"""`braid model`: what a model holds and costs."""

import json
import re

import pytest

from model.presets import PRESETS
from tests.launch.command_line import Braid


def test_a_models_cost_for_scripts(braid: Braid) -> None:
    cost = json.loads(braid("model", "olmo_hybrid_7b", "parallel.dp_shard=128", "compute.activation_checkpointing=full", "--json").out)

    assert cost["parameters"]["total"] == 7_430_870_688
    assert sum(cost["parameters"].values()) == 2 * 7_430_870_688
    assert cost["flops_per_token"] == pytest.approx(44.2e9, rel=1e-3)
    assert (cost["layout"], cost["num_gpus"], cost["seq_len"], cost["micro_rows"]) == ("dp_shard 128", 128, 8192, 1)
    assert sum(cost["bytes_per_gpu"].values()) == 2 * cost["bytes_per_gpu"]["total"]
    state = cost["bytes_per_gpu"]["parameters"] + cost["bytes_per_gpu"]["optimizer"]
    assert cost["node_bytes_per_gpu"] == {"snapshots": 2 * state, "mirror": 2 * state}


def test_a_models_cost_for_people(braid: Braid) -> None:
    out = braid("model", "olmo3_7b", "data.seq_len=4096", "train.micro_rows=2", "parallel.tp=8").out

    assert "7,298,617,344" in out
    assert "at 4,096 tokens" in out
    assert "memory of each GPU: tp 8, 2 × 4,096 tokens at once" in out
    none, selective, full = (float(size.replace(",", "")) for size in re.search(r"^total +(\S+) +(\S+) +(\S+)", out, re.M).groups())
    assert none > selective > full
    assert "adamw, bf16\nin GiB, by activation checkpointing:" in out
    assert "choose with compute.activation_checkpointing=…; here: none" in out
    assert "its node's memory keeps two snapshots of it: 21.9 GB" in " ".join(out.split())


def test_a_small_models_memory_is_told_in_a_smaller_unit(braid: Braid) -> None:
    cost = json.loads(braid("model", "tiny", "data.seq_len=128", "compute.activation_checkpointing=full", "--json").out)
    out = braid("model", "tiny", "data.seq_len=128").out

    assert cost["bytes_per_gpu"] == cost["bytes_per_gpu_by_checkpointing"]["full"]
    assert "in MiB, by" in out
    assert f"{cost['bytes_per_gpu']['total'] / 2**20:.2f}" in out


def test_the_help_names_every_preset_and_a_key_that_the_command_takes(braid: Braid) -> None:
    out = braid("model", "--help").out

    assert all(name in out for name in PRESETS)
    example = re.search(r"such as ([a-z_.]+=\d+)", out)
    assert example is not None
    assert braid("model", "tiny", example[1]).status == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["olmo_hybrid_7b", "parallel.tp=4"], "parallel.tp=4: 30 heads; use 1, 2, 3, 5, 6, 10, 15 or 30"),
        (["olmo_hybrid_8b"], "model.preset='olmo_hybrid_8b': no such model (did you mean olmo_hybrid_7b?); use one of tiny, "),
        (["tiny", "seq_len=128"], "seq_len: no such key (did you mean data.seq_len?)"),
        (["tiny", "num_layers=3"], "num_layers: no such key (did you mean model.num_layers?)"),
        (["tiny", "model.d_modl=3"], "model.d_modl: no such key (did you mean model.d_model?)"),
        (["tiny", "train.num_steps=3"], "train.num_steps: no such key; train has micro_rows"),
        (["tiny", "data.seq_len=0"], "data.seq_len=0: must be positive; use 1 or more"),
        (["tiny", "optimizer.groups=[{pattern: nothing}]"], "optimizer.groups"),
        (["tiny", "optimizer.name=sgd"], "optimizer.name='sgd': use one of adamw, muon"),
    ],
)
def test_a_wrong_question_about_a_model_is_one_line(arguments: list[str], line: str, braid: Braid) -> None:
    done = braid("model", *arguments)

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"braid: {line}")
    assert done.err.count("\n") == 1

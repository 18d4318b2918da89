"""`braid goodput`, of runs as they lie in a store."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from launch.config.compute_cost import peak_flops
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, put_steps, stored_run

CLASSES_OF_FINISHED = {"queued", "starting", "warming", "unknown", "detecting", "deciding"}


def test_the_json_adds_up(braid: Braid):
    stored_run(braid.root, FINISHED)
    put_steps(braid.root, 1, range(1, 34))
    told = json.loads(braid("goodput", "first", "--json").out)

    assert sum(told["classes"].values()) == pytest.approx(told["wall_s"], abs=1e-3)
    assert {name for name, took_s in told["classes"].items() if took_s} == CLASSES_OF_FINISHED, "of steps without a time nothing is known"
    assert (told["run"], told["state"], told["mfu"], told["cost"]) == ("first", "finished", None, None)
    assert [(loss["cause"], loss["machine"]) for loss in told["losses"]] == [("killed", "B")]


def test_steps_that_have_a_time_are_productive_or_lost(braid: Braid):
    stored_run(braid.root, FINISHED, "resources.price_per_gpu_hour=3600")
    for step in range(1, 34):
        put_steps(braid.root, 1, range(step, step + 1), ended_at_s=4 + 0.05 * step)
    told = json.loads(braid("goodput", "first", "--json").out)

    assert told["classes"]["productive"] == pytest.approx(19 * 0.05)
    assert told["classes"]["lost"] >= 13 * 0.05
    assert told["cost"]["productive"] == pytest.approx(told["gpu_seconds"]["productive"])
    assert told["flops_per_gpu_s"] > 0


def test_people_read_a_table(braid: Braid):
    stored_run(braid.root, FINISHED)
    shown = braid("goodput", "first").out

    assert "goodput 0.0%" in shown
    assert "together" in shown
    assert "100.0%" in shown
    assert "killed" in shown


def test_the_picture_has_every_class_and_failure(braid: Braid):
    stored_run(braid.root, FINISHED)
    braid("goodput", "first", "--picture", str(braid.root / "run.svg"))
    drawn = (braid.root / "run.svg").read_text()

    ElementTree.fromstring(drawn)
    assert all(name in drawn for name in CLASSES_OF_FINISHED)
    assert "killed on B, attempt 1" in drawn


def test_a_run_that_goes_on_is_told_until_now(braid: Braid):
    stored_run(braid.root, RUNNING)
    told = json.loads(braid("goodput", "first", "--json").out)
    assert told["state"] == "running"
    assert told["wall_s"] > 1e9, "it was submitted in 1970"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("first", "--picture", "run.png"), "braid: --picture run.png: is drawn as SVG"),
        (("first", "--picture", "/nowhere/run.svg"), "braid: --picture /nowhere/run.svg: No such file or directory; name a file"),
        (("second",), "braid: run 'second': not in"),
    ],
)
def test_what_a_person_can_put_right(braid: Braid, arguments: tuple[str, ...], line: str):
    stored_run(braid.root, FINISHED)
    done = braid("goodput", *arguments)
    assert done.status == 2
    assert done.err.startswith(line)


def test_the_peak_of_a_gpu_goes_by_its_name():
    assert (peak_flops("NVIDIA H200"), peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA GB200")) == (989e12, 756e12, 2500e12)
    assert (peak_flops(""), peak_flops("NVIDIA T4")) == (None, None)

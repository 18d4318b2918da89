"""What the doctor makes of what it finds."""

import json
import shlex

import pytest

from launch.machine.checks import (
    Check,
    judge_clock,
    judge_disk,
    judge_error,
    judge_gpus,
    judge_kernels,
    judge_memory,
    judge_packages,
    judge_python,
    judge_upload_rule,
)

REQUIREMENTS = ["torch<2.14,>=2.11", "ray<2.61,>=2.60", 'pytest>=8; extra == "dev"']


def levels(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_only_the_supported_pythons_pass() -> None:
    assert [judge_python((3, minor)).level for minor in (10, 11, 12, 13)] == ["fail", "ok", "ok", "fail"]


def test_packages_are_held_against_the_projects_own_ranges() -> None:
    checks = judge_packages(REQUIREMENTS, {"torch": "2.13.0+cpu", "ray": "2.59.1"})
    assert levels(checks) == {"torch": "ok", "ray": "fail"}
    assert "install ray<2.61,>=2.60" in checks[1].remedy
    assert judge_packages(REQUIREMENTS, {})[0].found == "not installed"


def test_no_gpu_is_fine_but_a_gpu_that_torch_does_not_see_is_not() -> None:
    assert judge_gpus([], None, driver_present=False).level == "ok"
    assert judge_gpus([], None, driver_present=True).level == "fail"
    assert judge_gpus(["H200", "H200"], None, driver_present=True).level == "fail"
    assert judge_gpus(["H200", "H200"], "3.5.0", driver_present=True).found == "2 × H200, triton 3.5.0"


def test_a_gpu_that_computes_something_else_fails_by_name() -> None:
    assert judge_kernels(0, "", 2.31).found == "right, forward and backward, in 2.3 s"
    check = judge_kernels(3, "GPU 3 (NVIDIA H200, 1f0c): delta rule, gradient of k: 0.4 off", 2.3)
    assert (check.name, check.level) == ("kernels, GPU 3", "fail")
    assert "gradient of k: 0.4 off" in check.found
    assert "train without this GPU" in check.remedy


def test_a_stores_error_is_shown_with_its_remedy_apart_where_it_has_one() -> None:
    check = judge_error("store s3://b/x", "s3://b/x/k: no such bucket; none at h:1; create it, or fix storage.root")
    assert (check.name, check.level) == ("store s3://b/x", "fail")
    assert (check.found, check.remedy) == ("s3://b/x/k: no such bucket; none at h:1", "create it, or fix storage.root")
    check = judge_error("store s3://b/x", "s3://b/x/k: shorter than the range that was asked for")
    assert (check.found, check.remedy) == ("s3://b/x/k: shorter than the range that was asked for", "")


def test_little_disk_or_memory_warns() -> None:
    assert [judge_disk("/x", free, is_usable=True).level for free in (2**40, 2**30)] == ["ok", "warn"]
    assert (judge_memory(2**40).level, judge_memory(2**30).level) == ("ok", "warn")


@pytest.mark.parametrize(("store_s", "level"), [(100.5, "ok"), (99.0, "ok"), (106.0, "ok"), (107.0, "warn"), (93.0, "warn")])
def test_the_clock_is_held_against_the_stores_with_a_second_of_rounding(store_s: float, level: str) -> None:
    assert judge_clock(store_s, 100.0, 101.0).level == level


def test_a_bucket_without_a_rule_against_incomplete_uploads_is_told_one_that_can_be_pasted_into_a_shell() -> None:
    check = judge_upload_rule("bucket", "some/prefix", is_there=False)
    command = shlex.split(check.remedy.partition(": ")[2])
    assert (check.level, command[:5]) == ("warn", ["aws", "s3api", "put-bucket-lifecycle-configuration", "--bucket", "bucket"])
    (rule,) = json.loads(command[6])["Rules"]
    assert (rule["Filter"], rule["AbortIncompleteMultipartUpload"]) == ({"Prefix": "some/prefix/"}, {"DaysAfterInitiation": 2})
    assert judge_upload_rule("bucket", "", is_there=True).level == "ok"
    assert "access denied" in judge_upload_rule("bucket", "", is_there=None, why="access denied").found

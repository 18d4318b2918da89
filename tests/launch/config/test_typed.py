"""What people write into a recipe, and what it means: the type of a field decides, not what the text looks like."""

import dataclasses
import enum
import functools
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.config.keys import section_in, without_none
from launch.config.load import dump_yaml, load_config
from launch.config.text import dump, parse_yaml, resolved
from launch.config.typed import section
from launch.errors import ConfigError
from orchestrator.config import RunConfig
from tests.launch.command_line import Braid

NAMES = (
    *("007", "0x10", "0o17", "0b11", "1e5", "1_000", "1E5", "5", "5.0", "1.e3", "1__0", "08", "5e-324", "9" * 60),
    *("no", "yes", "on", "off", "true", "True", "y", "N", "null", "Null", "none", "nan", "inf", "infinity", "2024-01-01", "0-0", "1.2.3"),
)
"""Names that YAML or Python may take for something else."""
DIRECTORIES = (*NAMES, "1:30", "190:20:30", ".5", ".inf", "+1", "-", "=", "<<", "a b", " a", "2001-12-14 21:59:43.10 -5", "১২", "1,000")
ON_THE_COMMAND_LINE = (*DIRECTORIES, "[1]", "{a}", "- a", "a: b", "#", "a #b", "'q'", '"q"', "*a", "&a", "!a", "@a", "%a", "|", "a:")
TEXTS = st.one_of(st.sampled_from(ON_THE_COMMAND_LINE), st.text(), st.from_regex(r"[0-9a-fox._:e+-]{1,12}", fullmatch=True))
MODEL = "model: {preset: tiny}\n"


def _texts_of(cls: type, where: str = "") -> Iterator[str]:
    """The dotted key of every field that takes a text, a choice included."""
    for name, hint in typing.get_type_hints(cls).items():
        inner, _ = without_none(hint)
        if kind := section_in(hint):
            yield from _texts_of(kind, f"{where}{name}.")
        elif inner is str or typing.get_origin(inner) is Literal:
            yield f"{where}{name}"


def _all_keys(cls: type, where: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        kind = section_in(hint)
        yield from _all_keys(kind, f"{where}{name}.") if kind else (f"{where}{name}",)


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_a_run_or_a_dataset_may_be_called_like_a_number_a_date_or_a_word_of_yaml(name: str, braid: Braid, tmp_path: Path) -> None:
    assert braid("submit", "tiny", "--dry-run", f"data.dataset={name}", f"name={name}").status == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: {name}\ndata: {{dataset: {name}, seq_len: 8}}\nstart:\n  run: {name}.of\n" + _rest())
    config = load_config(recipe, [])
    assert (config.name, config.data.dataset, config.start.run) == (name, name, f"{name}.of")
    recipe.write_text(dump_yaml(config))
    assert load_config(recipe, []) == config


def _rest() -> str:
    return MODEL + "storage: {root: here}\noptimizer: {}\ntrain: {num_steps: 9999, batch_rows: 1, micro_rows: 1}\n"


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_a_store_may_lie_in_a_directory_of_any_name(directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny", [f"storage.root={directory}"]).storage.root == str(tmp_path / directory)
    monkeypatch.setenv("ROOT", directory)
    assert load_config("tiny", ["storage.root=${oc.env:ROOT}"]).storage.root == str(tmp_path / directory)
    if directory.strip() == directory and "," not in directory:
        assert load_config("tiny", [f"storage.root=${{oc.env:NOT_THERE,{directory}}}"]).storage.root == str(tmp_path / directory)


@given(key=st.sampled_from(sorted(_texts_of(RunConfig))), text=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_field_that_takes_a_text_takes_any_as_it_is_or_refuses_it_by_key(key: str, text: str, tmp_path: Path) -> None:
    for found in (_from_the_command_line(key, text), _from_a_recipe(key, text, tmp_path)):
        if isinstance(found, str):
            assert key in found or found.startswith(key.partition(".")[0])
        elif key == "storage.root":
            assert found.storage.root in (text, str(Path(text).expanduser().absolute())) or "${" in text
        else:
            assert _at(found, key) == text or "${" in text


@given(
    key=st.sampled_from(sorted(_all_keys(RunConfig))),
    text=st.one_of(TEXTS, st.integers().map(str), st.floats().map(str)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_for_a_setting_is_a_run_or_one_line(key: str, text: str, tmp_path: Path) -> None:
    for found in (_from_the_command_line(key, text), _from_a_recipe(key, text, tmp_path)):
        assert not isinstance(found, str) or "\n" not in found


def _from_the_command_line(key: str, text: str) -> RunConfig | str:
    return _loaded("tiny", f"{key}={text}")


def _from_a_recipe(key: str, text: str, directory: Path) -> RunConfig | str:
    inner = recipe = yaml.safe_load(_tiny())
    *sections, name = key.split(".")
    for part in sections:
        inner = inner[part]
    inner[name] = text
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return _loaded(path)


@functools.cache
def _tiny() -> str:
    return dump_yaml(load_config("tiny", []))


def _loaded(recipe: Path | str, *overrides: str) -> RunConfig | str:
    """The run, or why there is none."""
    try:
        return load_config(recipe, overrides)
    except ConfigError as error:
        return str(error)


NUMBERS = {
    "1000": 1000,
    "1e3": 1000,
    "1E+3": 1000,
    "1_000": 1000,
    "1000.0": 1000,
    "0x3e8": 1000,
    "01000": 1000,
    " 1000 ": 1000,
    "+1000": 1000,
}
NO_NUMBERS = (
    "1e-3",
    "0.5",
    "1:30",
    "1,000",
    "ten",
    "",
    "nan",
    "inf",
    "1e999999999",
    "9" * 5000,
    "0x",
    "1__0",
    "no",
    "2024-01-01",
    "~",
    "1 0",
)


@pytest.mark.parametrize("text", NUMBERS)
def test_a_whole_number_may_be_written_in_the_usual_ways(text: str, tmp_path: Path) -> None:
    for found in (_from_the_command_line("train.num_steps", text), _from_a_recipe("train.num_steps", text, tmp_path)):
        assert isinstance(found, RunConfig)
        assert found.train.num_steps == NUMBERS[text]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_whole_number_is_refused_as_it_was_written(text: str, tmp_path: Path) -> None:
    for found in (_from_the_command_line("train.num_steps", text), _from_a_recipe("train.num_steps", text, tmp_path)):
        assert found == f"train.num_steps={text!r}: use a whole number"


class Colour(enum.Enum):
    ZERO = "0"
    NO = "no"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    word: str
    choice: Literal["1e3", "no"] = "no"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfEachType:
    """A field of each type that a configuration may have one day."""

    text: str = ""
    words: tuple[str, ...] = ()
    by_word: dict[str, str] = dataclasses.field(default_factory=dict)
    maybe: str | None = "x"
    number: float | None = 1.0
    whether: bool = False
    colour: Colour = Colour.NO
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()


def _read(text: str) -> OfEachType:
    return typing.cast(OfEachType, section(OfEachType, resolved(parse_yaml(text)), ""))


def test_every_type_of_field_takes_the_text() -> None:
    read = _read(
        "text: 2024-01-01\nwords: [no, 1e5, 0x10, ~]\nby_word: {1: 007, yes: off}\nmaybe: 1_0\nnumber: 1_0.5\nwhether: on\n"
        "colour: 0\ninner: {word: null, choice: 1e3}\ninners: [{word: .5}]\n"
    )
    assert read == OfEachType(
        text="2024-01-01",
        words=("no", "1e5", "0x10", "~"),
        by_word={"1": "007", "yes": "off"},
        maybe="1_0",
        number=10.5,
        whether=True,
        colour=Colour.ZERO,
        inner=Inner(word="null", choice="1e3"),
        inners=(Inner(word=".5"),),
    )


@pytest.mark.parametrize("nothing", ["null", "~", "None", ""])
def test_only_a_field_that_may_be_left_out_takes_null(nothing: str) -> None:
    read = _read(f"maybe: {nothing}\nnumber: {nothing}\ninner: {nothing}\ntext: {nothing}")
    assert (read.maybe, read.number, read.inner, read.text) == (None, None, None, nothing)


def test_anchors_merges_and_references_go_on_working(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "007")
    read = _read(
        "inner: &one {word: '${oc.env:WORD}', choice: 1e3}\ninners: [*one, {<<: *one, word: '${text}/${oc.env:NOT_THERE,1e5}'}]\n"
        "text: \\${text}\nmaybe: '${oc.env:NOT_THERE,${oc.env:WORD}}'\nnumber: '${oc.env:NOT_THERE,null}'"
    )
    assert read.inners == (Inner(word="007", choice="1e3"), Inner(word="${text}/1e5", choice="1e3"))
    assert (read.text, read.maybe, read.number) == ("${text}", "007", None)


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
    st.sampled_from(["${a}", "\\${", "\\\\${x", "007", "no", ""]),
)
def test_what_is_dumped_is_read_as_the_same_text(text: str, more: str) -> None:
    tree = {"text": text + more + text, "words": (more,), "none": None, "number": 1e-5, "far": math.inf}
    again = resolved(parse_yaml(dump(tree)))
    assert again["text"] == tree["text"]
    assert again["words"] == [more]


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("[" * 2000, id="deep"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "? [a]\n: b",
        "!!set {a}",
        "a: !!python/name:os.system",
        "\0",
        "a: !!int x",
        "name: {a: 1}",
    ],
)
def test_a_strange_recipe_is_one_line(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "strange.yaml"
    path.write_text(recipe)
    found = _loaded(path)
    assert isinstance(found, str)
    assert "\n" not in found

"""From a recipe and overrides to a run, or to one line that names the key and the remedy."""

import dataclasses
import typing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import PhaseConfig, SourceConfig
from launch.config.load import change_config, dump_yaml, load_config
from launch.config.recipes import shipped_recipes
from launch.errors import ConfigError
from model.optim.config import ParamGroup
from model.presets import PRESETS
from orchestrator.config import RunConfig, training_digest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAID_STORAGE_ROOT", raising=False)


def test_overrides_win_over_the_recipe_and_later_ones_over_earlier() -> None:
    config = load_config("tiny", ["train.num_steps=7", "optimizer.lr=1e-4", "train.num_steps=9", "name=second", "model.num_layers=8"])
    assert (config.train.num_steps, config.optimizer.lr, config.name) == (9, 1e-4, "second")
    assert (config.model.num_layers, config.model.d_model) == (8, PRESETS["tiny"].d_model)


def test_parameter_groups_are_a_list_of_sections_in_a_recipe_and_on_the_command_line(tmp_path: Path) -> None:
    norms = ParamGroup(pattern="*norm.weight", weight_decay=0.0)
    assert load_config("tiny", []).optimizer.groups == (ParamGroup(pattern="embed.weight", weight_decay=0.0),)
    config = load_config("tiny", ['optimizer.groups=[{pattern: "*norm.weight", weight_decay: 0.0}]'])
    assert config.optimizer.groups == (norms,)

    (tmp_path / "again.yaml").write_text(dump_yaml(config))
    again = load_config(tmp_path / "again.yaml", [])
    assert again == config
    assert change_config(again, ["optimizer.lr=1e-4"]).optimizer.groups == (norms,)
    assert change_config(again, ["optimizer.groups=[]"]).optimizer.groups == ()


MIXTURE = ("data.sources=[{dataset: web, ratio: 8}, {dataset: code, max_epochs: 2}]", "data.phases=[{steps: 5}, {seq_len: 8}]")


def test_an_element_of_a_list_is_changed_in_its_place() -> None:
    """By brackets or dots, as OmegaConf has it."""
    changes = ("data.sources[0].ratio=3", "data.sources.1.max_epochs=null", "data.phases[1].ratios.code=1", "data.phases[0].steps=1_0")
    data = load_config("tiny", [*MIXTURE, *changes]).data
    assert data.sources == (SourceConfig(dataset="web", ratio=3), SourceConfig(dataset="code"))
    assert data.phases == (PhaseConfig(steps=10), PhaseConfig(seq_len=8, ratios={"code": 1}))

    merged = load_config("tiny", [*MIXTURE, "data.sources[1]={dataset: math}", "data.sources[1].ratio=5"]).data
    assert merged.sources[1] == SourceConfig(dataset="math", ratio=5, max_epochs=2)
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [*MIXTURE, "data.sources[2].ratio=3"])
    assert str(caught.value) == "data.sources[2]: no such element; there is data.sources[0] (dataset: web), data.sources[1] (dataset: code)"


def test_an_element_of_a_list_that_a_run_has_is_changed_too() -> None:
    """Or of a list that is nowhere but in the configuration's own defaults."""
    config = change_config(
        load_config("tiny", ["data.sources=[{dataset: web}, {dataset: code, ratio: 2}]"]), ["data.sources[0].ratio=1e-3"]
    )
    assert config.data.sources == (SourceConfig(dataset="web", ratio=1e-3), SourceConfig(dataset="code", ratio=2))
    changed = change_config(config, ["optimizer.groups.0.lr_scale=2"])
    assert changed.optimizer.groups == (dataclasses.replace(config.optimizer.groups[0], lr_scale=2),)


def test_a_mixture_takes_the_place_of_the_recipes_dataset_and_a_dataset_that_of_the_recipes_mixture(tmp_path: Path) -> None:
    web = (SourceConfig(dataset="web"),)
    for override in (["data.sources=[{dataset: web}]"], ["data={sources: [{dataset: web}]}"]):
        assert load_config("one_gpu", override).data.datasets == ("web",)
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text(dump_yaml(load_config("tiny", ["data.sources=[{dataset: web}]"])))
    assert load_config(recipe, []).data.sources == web
    assert load_config(recipe, ["data.dataset=math"]).data.datasets == ("math",)
    mixed, plain = load_config("tiny", ["data.sources=[{dataset: web}]"]), load_config("tiny", ["data.dataset=math"])
    assert change_config(mixed, ["data.dataset=python-stdlib"]).data.datasets == ("python-stdlib",)
    assert change_config(plain, ["data.sources=[{dataset: web}]"]).data.datasets == ("web",)
    assert change_config(plain, ["data.sources=[]"]).data.datasets == ("math",)


@pytest.mark.parametrize("dataset", ["python-stdlib", "web", "math"])
def test_a_dataset_beside_a_mixture_is_refused_also_where_it_is_the_default(dataset: str, tmp_path: Path) -> None:
    line = f"^data.dataset={dataset}: data.sources names datasets too; leave one of the two out$"
    sources = "data.sources=[{dataset: web}]"
    for both in ([f"data.dataset={dataset}", sources], [sources, f"data={{dataset: {dataset}}}"]):
        with pytest.raises(ConfigError, match=line):
            load_config("tiny", both)
    (tmp_path / "both.yaml").write_text(f"data:\n  dataset: {dataset}\n  sources: [{{dataset: web}}]\n")
    with pytest.raises(ConfigError, match=line):
        load_config(tmp_path / "both.yaml", [])


def float_keys(cls: type, where: str = "") -> Iterator[str]:
    """The dotted key of every field that takes a number, in every section and every list of sections."""
    for name, hint in typing.get_type_hints(cls).items():
        inner = [hint, *typing.get_args(hint)]
        if float in inner:
            yield f"{where}{name}"
        for section in filter(dataclasses.is_dataclass, inner):
            yield from float_keys(section, f"{where}{name}[0]." if section is not hint else f"{where}{name}.")


FLOAT_KEYS = sorted(float_keys(RunConfig))


def override_of(key: str, value: str) -> str:
    section, is_item, field = key.partition("[0].")
    if not is_item:
        return f"{key}={value}"
    if field == "ratios":
        return f"{section}=[{{ratios: {{web: {value}}}}}]"
    needed = {"optimizer.groups": "pattern: embed.weight", "data.sources": "dataset: web"}
    return f"{section}=[{{{needed[section]}, {field}: {value}}}]"


def told_as(key: str) -> str:
    return f"{key}.web=" if key.endswith(".ratios") else f"{key}="


@pytest.mark.parametrize("key", FLOAT_KEYS)
@settings(max_examples=4)
@given(value=st.sampled_from(["nan", "inf", "-inf", ".nan", ".inf", "-.inf", "NaN", "Infinity", "1e400", "-1e999"]))
def test_a_number_that_is_infinite_or_none_is_refused_by_its_key(key: str, value: str) -> None:
    for load in (partial(load_config, "tiny"), partial(change_config, load_config("tiny", []))):
        with pytest.raises(ConfigError) as caught:
            load([override_of(key, value)])
        assert str(caught.value).startswith(told_as(key))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", FLOAT_KEYS)
def test_a_number_that_training_can_not_hold_or_nothing_can_wait_for_is_refused_by_its_key(key: str) -> None:
    for value in ("1e39", "-1e300", "3.5e38", *(["1e10"] if key.endswith("_s") else [])):
        with pytest.raises(ConfigError) as caught:
            load_config("tiny", [override_of(key, value)])
        assert str(caught.value).startswith(told_as(key))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.num_steps=1e19", "train.num_steps=1e19: more than 64 bits hold; use 9223372036854775807 or less"),
        ("train.seed=-1e39", "train.seed=-1e39: more than 64 bits hold; use 9223372036854775807 or less"),
        ("optimizer.lr=1e39", "optimizer.lr=1e39: infinite as a float32; use an ordinary number"),
        ("storage.deadline_s=1e12", "storage.deadline_s=1e12: more seconds than anything can wait; use 1e+09 or less"),
        ("model.num_layers=1e9", "model.num_layers=1000000000: use 10,000 or less"),
        ("model.num_heads=1e18", "model.num_heads=1000000000000000000: use 10,000 or less"),
        ("model.gdn_num_key_heads=1e18", "model.gdn_num_key_heads=1000000000000000000: use 10,000 or less"),
    ],
)
def test_an_absurd_number_is_one_line_at_once(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [override])
    assert str(caught.value) == said


def test_the_keys_that_take_numbers_are_found() -> None:
    known = {"optimizer.lr", "optimizer.groups[0].weight_decay", "storage.deadline_s", "recovery.backoff_s", "model.norm_eps"}
    assert known <= set(FLOAT_KEYS)


def test_nothing_after_the_equals_sign_is_an_empty_text() -> None:
    assert load_config("tiny", ["storage.endpoint_url="]).storage.endpoint_url == ""


def test_a_preset_can_be_replaced_by_another() -> None:
    assert load_config("tiny", ["model.preset=olmo_hybrid_190m"]).model == PRESETS["olmo_hybrid_190m"]


def test_the_environment_names_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_STORAGE_ROOT", "s3://bucket/prefix")
    own = tmp_path / "own.yaml"
    settings = yaml.safe_load(dump_yaml(load_config("tiny", [])))
    del settings["storage"]["root"]
    own.write_text(yaml.safe_dump(settings))
    assert load_config(own, []).storage.root == "s3://bucket/prefix", "a recipe of one's own need not say it"
    assert load_config("tiny", []).storage.root == "s3://bucket/prefix"
    assert load_config("tiny", ["storage.root=s3://other/prefix"]).storage.root == "s3://other/prefix"


def test_a_relative_directory_becomes_absolute_because_workers_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny", ["storage.root=here"]).storage.root == str(tmp_path / "here")


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_what_is_dumped_loads_to_the_same(recipe: str, tmp_path: Path) -> None:
    config = load_config(recipe, [])
    (tmp_path / "again.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "again.yaml", []) == config


def test_a_run_can_be_changed_by_overrides_alone() -> None:
    config = load_config("tiny", [])
    longer = change_config(config, ["train.num_steps=400", "parallel.dp_shard=1"])
    assert (longer.train.num_steps, longer.parallel.dp_shard) == (400, 1)
    assert training_digest(longer) == training_digest(config)
    assert training_digest(change_config(config, ["train.batch_rows=16"])) != training_digest(config)


MISTAKES = {
    "train.num_stepz=3": "train.num_stepz: no such key (did you mean train.num_steps?); train has",
    "trian.num_steps=3": "trian: no such key (did you mean train?)",
    "zzz=3": "zzz: no such key; a recipe has name, model, data",
    "model.prset=tiny": "model.prset: no such key (did you mean model.preset?)",
    "model.preset=tinny": f"model.preset='tinny': no such model (did you mean tiny?); use one of {', '.join(PRESETS)}",
    "model.preset=zzz": f"model.preset='zzz': no such model; use one of {', '.join(PRESETS)}",
    "dp_shard=3": "dp_shard: no such key (did you mean parallel.dp_shard?); a recipe has name, model",
    "seed=3": "seed: no such key (did you mean data.seed or train.seed?); a recipe has",
    "preset=tiny": "preset: no such key (did you mean model.preset?)",
    "model.gdn_backend=fla": "model.gdn_backend=fla: needs CUDA, and resources.device=cpu; use auto or torch",
    "model.gdn_backend=cuda": "model.gdn_backend='cuda': use one of auto, torch, fla, triton",
    "train.num_steps=abc": "train.num_steps='abc': use a whole number",
    "train.num_steps=1.5": "train.num_steps='1.5': use a whole number",
    "train.num_steps=null": "train.num_steps='null': use a whole number",
    "train.num_steps=": "train.num_steps='': use a whole number",
    "train.num_steps=true": "train.num_steps='true': use a whole number",
    "train.num_steps=0": "train.num_steps=0: must be at least 1",
    "optimizer.lr=fast": "optimizer.lr='fast': use a number",
    "optimizer.groups=[{patern: embed.weight}]": "optimizer.groups[0].patern: no such key (did you mean optimizer.groups[0].pattern?); "
    "optimizer.groups[0] has pattern, ",
    "optimizer.groups=[{pattern: head.weight, lr_scale: fast}]": "optimizer.groups[0].lr_scale='fast': use a number",
    "optimizer.groups=[{pattern: head.weight, weight_decay: much}]": "optimizer.groups[0].weight_decay='much': use a number",
    "optimizer.groups=[{pattern: head.weight, lr_scale: -1}]": "optimizer.groups[0].lr_scale=-1.0: negative; use 0 to turn it off",
    "optimizer.groups=[{pattern: embed.weigth}]": "optimizer.groups[0].pattern='embed.weigth': matches no parameter; did you mean embed",
    "optimizer.groups=[{lr_scale: 2}]": "optimizer.groups[0].pattern: missing; set it in the recipe",
    "optimizer.groups=[3]": "optimizer.groups[0]='3': a section, not a value; use {pattern: VALUE}",
    "optimizer.groups=null": "optimizer.groups='null': use a list of sections",
    "optimizer.groups={pattern: head.weight}": "optimizer.groups={'pattern': 'head.weight'}: use a list of sections",
    "optimizer.groups[0].lr_scal=2": "optimizer.groups[0].lr_scal: no such key (did you mean optimizer.groups[0].lr_scale?)",
    "optimizer.groups[0].lr_scale=fast": "optimizer.groups[0].lr_scale='fast': use a number",
    "optimizer.groups[1].lr_scale=2": "optimizer.groups[1]: no such element; there is optimizer.groups[0] (pattern: embed.weight)",
    "optimizer.groups.first.lr_scale=2": "optimizer.groups[first]: no such element; there is optimizer.groups[0] (pattern: embed.weight)",
    "optimizer.groups[-1]=2": "optimizer.groups[-1]: no such element; there is optimizer.groups[0] (pattern: embed.weight)",
    "optimizer.groups[0]=2": "optimizer.groups[0]='2': a section, not a value; use {pattern: VALUE}",
    "data.sources[0].ratio=2": "data.sources[0]: there is no list data.sources to change; use a list of sections, such as data.sources=[{",
    "data.sources[0.ratio=2": "override 'data.sources[0.ratio=2': not of the form key=value",
    "train.num_steps[0]=2": "train.num_steps={'0': '2'}: use a whole number",
    "optimizer.schedule=wsd": "optimizer.schedule=wsd: no decay; set optimizer.decay_steps or optimizer.decay_tokens",
    "optimizer.decay_steps=5": "optimizer.decay_steps=5: only wsd has a decay; use 0, or optimizer.schedule=wsd",
    "optimizer.decay_tokens=5000": "optimizer.decay_tokens=5000: only wsd has a decay; use 0, or optimizer.schedule=wsd",
    "optimizer={schedule: wsd, decay_steps: 3, decay_tokens: 5000}": (
        "optimizer.decay_tokens=5000: optimizer.decay_steps=3 too; set one of them to 0"
    ),
    "optimizer={schedule: wsd, decay_steps: 300}": "optimizer.decay_steps=300: 300 steps of decay after ",
    "train.deterministic=perhaps": "train.deterministic='perhaps': use true or false",
    "name=[1]": "name='[1]': use up to 63 letters",
    "name=../../etc": "name='../../etc': use up to 63 letters",
    "train=5": "train='5': a section, not a value; set its keys, such as train.num_steps=VALUE",
    "model=tiny": "model='tiny': a section, not a value; set its keys, such as model.preset=VALUE",
    "parallel=3": "parallel='3': a section, not a value; set its keys, such as parallel.",
    "checkpoint=3": "checkpoint='3': a section, not a value; set its keys, such as checkpoint.",
    "storage.root=s3://b": "storage.root='s3://b': a bucket's name has 3 to 63 characters",
    "parallel.tp=3": "parallel.tp=3: 4 heads; use 1, 2 or 4",
    "train.micro_rows=3": (
        "train.batch_rows=8: not divisible by parallel.dp_replicate × parallel.dp_shard × train.micro_rows = 1 × 2 × 3; use a multiple of 6"
    ),
    "data.dataset=../x": "data.dataset='../x': use up to 100 letters",
    "storage.root=ftp://x": "storage.root='ftp://x': not an S3 location; use s3://bucket/prefix",
    "storage.endpoint_url=http://localhost:1": "storage.endpoint_url='http://localhost:1': only goes with an s3:// storage.root",
    "train.num_steps=${nowhere}": "train.num_steps: Interpolation key 'nowhere' not found; fix the ${…} reference",
    "storage.root=${oc.env:NOT_THERE}": "storage.root: KeyError raised while resolving interpolation",
    "train.num_steps=${oc": "train.num_steps: not a ${…} reference",
    "train.num_steps=[1,": "train.num_steps='[1,': use a whole number",
    "optimizer.groups=[1,": "optimizer.groups: its value is not valid YAML",
    "train.num_steps": "override 'train.num_steps': not of the form key=value; for example train.num_steps=200",
    "train..x=3": "override 'train..x=3': not of the form key=value",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_that_begins_with_the_key(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [override])
    line = str(caught.value)
    assert line.startswith(MISTAKES[override])
    assert "\n" not in line


def test_what_a_recipe_leaves_out_is_missed_by_its_own_key(tmp_path: Path) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: bare\ndata:\n  seq_len: ???\n")
    with pytest.raises(ConfigError, match=r"^model\.vocab_size: missing; .* or choose a whole model with model\.preset=tiny\|"):
        load_config(bare, [])
    with pytest.raises(ConfigError, match=r"^data\.seq_len: missing; set it in the recipe, or with data\.seq_len=VALUE$"):
        load_config(bare, ["model.preset=tiny"])

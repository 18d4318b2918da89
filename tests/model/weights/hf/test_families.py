"""Which family a directory is, and which one a model is written as."""

import json
from pathlib import Path

import pytest

from model.presets import PRESETS
from model.weights.hf.errors import HFFormatError
from model.weights.hf.families import FAMILIES, config_to_hf, family_for, family_of_hf
from model.weights.hf.files import open_hf
from tests.model.weights.hf.small_models import HYBRID, SERVING, UNHEARD, refusal, written


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_written_as_one_family_and_read_as_the_same(name: str) -> None:
    family = family_for(PRESETS[name])
    assert [one for one in FAMILIES if one.exports(PRESETS[name])] == [family]
    assert family_of_hf(config_to_hf(PRESETS[name], serving=SERVING, dtype="bfloat16")) is family


@pytest.mark.parametrize("architectures", [["OlmoHybridForSequenceClassification"], ["Olmo3ForCausalLM"], "OlmoHybridForCausalLM", [3]])
def test_another_network_of_the_same_family_is_refused(architectures: object, tmp_path: Path) -> None:
    hf = written(tmp_path / "hf")
    content = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(content | {"architectures": architectures}))
    line = f"config.json architectures={architectures!r}: olmo_hybrid here is OlmoHybridForCausalLM; get a checkpoint of that"
    assert refusal(hf) == line
    del content["architectures"]
    (hf / "config.json").write_text(json.dumps(content))
    assert open_hf(hf).config == HYBRID


def test_layers_that_no_family_has_are_not_taken_for_others() -> None:
    with pytest.raises(HFFormatError) as refused:
        family_for(UNHEARD)
    line = "model.layer_pattern='attn mamba2': no family has such layers, of olmo_hybrid, olmo3; this can't be exported"
    assert str(refused.value) == line

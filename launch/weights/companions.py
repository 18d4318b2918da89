"""The files that belong beside weights: tokenizer, chat template, and what config.json says of serving."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DatasetMissing
from data_pipeline.store.protocol import KeyMissing, ObjectStore
from launch.errors import UserError
from launch.weights.checkpoint import StoredCheckpoint
from orchestrator.records.configs import newest_config
from orchestrator.worker.weights import read_companions

HF_CONFIG = "config.json"
COMPANIONS = (
    HF_CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "generation_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files of a Hugging Face directory that an import keeps; config.json is kept for what it says of serving."""


def companions_in(directory: Path) -> dict[str, bytes]:
    """Contents by name, of a Hugging Face directory. Raises UserError for a file that could not be read again after an export."""
    return {name: _read(directory / name) for name in COMPANIONS if os.path.lexists(directory / name)}


def companions_of(checkpoint: StoredCheckpoint, store: ObjectStore, tell: Callable[[str], None]) -> dict[str, bytes]:
    """Contents by name: of the files that the weights were imported with, or of those of the dataset that they were trained on.

    The config.json among them says only what counts for serving. Raises StoreError, DecodeError.
    """
    config = newest_config(checkpoint.run_store)
    if checkpoint.manifest.training is None or config is None:
        return read_companions(checkpoint.run_store, checkpoint.manifest)
    serving = {"max_position_embeddings": max(stage.seq_len for stage in config.stages)}
    try:
        dataset = load_manifest(store, config.data.datasets[0])
        if not dataset.tokenizer_key:
            tell(f"without a tokenizer: dataset {dataset.name} was registered without one; put the tokenizer's files beside the weights")
            return {HF_CONFIG: json.dumps(serving | {"eos_token_id": dataset.eos_id}).encode()}
        tokenizer = store.get(dataset.tokenizer_key)
    except (DatasetMissing, KeyMissing) as error:
        tell(f"without a tokenizer: {error}")
        return {HF_CONFIG: json.dumps(serving).encode()}
    eos_token = tokenizer_from_json(tokenizer, where=store.url(dataset.tokenizer_key)).id_to_token(dataset.eos_id)
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos_token}).encode(),
        HF_CONFIG: json.dumps(serving | {"eos_token_id": dataset.eos_id}).encode(),
    }


def _read(path: Path) -> bytes:
    """Raises UserError for what is no file, can't be read, or is called .json and is not."""
    if not path.is_file():
        raise UserError(f"{path}: not a file; put the model's own there, or remove it")
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); give a file that you may read, or remove it") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not JSON ({reason}); download it again, or remove it") from error
    return data

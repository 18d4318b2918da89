"""What a config.json says for those who generate text. Pure."""

from dataclasses import dataclass

from model.weights.hf.fields import Json, positive_int, token


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What config.json tells those who generate text; the network doesn't depend on it."""

    eos_token_id: int | tuple[int, ...] | None
    """The token, or each of the tokens, that ends a text."""
    pad_token_id: int | None
    max_position_embeddings: int
    """The longest context, in tokens, that inference engines will serve."""


def read_serving(hf: Json, *, default_context: int) -> Serving:
    """`default_context` is the longest context where config.json names none. Raises HFFormatError, naming the key, for a wrong value."""
    eos, pad = hf.get("eos_token_id"), hf.get("pad_token_id")
    return Serving(
        eos_token_id=tuple(token("eos_token_id", one) for one in eos) if isinstance(eos, list) else _token_or_none("eos_token_id", eos),
        pad_token_id=_token_or_none("pad_token_id", pad),
        max_position_embeddings=positive_int(hf, "max_position_embeddings", default_context),
    )


def _token_or_none(key: str, value: object) -> int | None:
    return None if value is None else token(key, value)

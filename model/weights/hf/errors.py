"""What goes wrong with Hugging Face directories."""


class HFFormatError(ValueError):
    """A Hugging Face directory that holds none of the models known here, or a model that none of their formats can hold: one line."""

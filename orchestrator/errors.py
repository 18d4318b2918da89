"""What ends a worker for a reason that a person should read: one line each, with the remedy. Their names are known to control/policy.py."""


class Fenced(Exception):
    """A newer attempt of this run has begun."""


class CheckpointCorrupt(Exception):
    """A file of a committed checkpoint is missing or is not what was written."""


class ConfigMismatch(Exception):
    """The configuration is not the one that a checkpoint belongs to."""


class KernelsWrong(Exception):
    """This GPU's kernels, compared with their definition, compute something else."""


class NoCheckpoint(Exception):
    """The run has committed checkpoints, and not one of them verifies."""

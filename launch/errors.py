"""What a person can cause or meet, and put right: every message is one line which names the thing and the remedy."""


class UserError(Exception):
    """Base of the errors that end a command with exit status 2."""


class ConfigError(UserError):
    """A recipe or an override does not describe a run; the line begins with the dotted key."""


class NoSuchRun(UserError):
    """The store holds no run of this name."""


class NoSuchMachine(UserError):
    """Neither the registry of nodes nor the cluster knows a machine of this name."""


class RunExists(UserError):
    """A run of this name has been submitted before."""


class OnlyWeights(UserError):
    """The run was imported or averaged: there is no training to speak of."""


class NoSuchLog(UserError):
    """Nobody has what a worker printed, or not yet."""


class NoSuchCheckpoint(UserError):
    """The run has no checkpoint, or none that is whole, of which it can do what was asked for."""


class WrongMoment(UserError):
    """The run can't do this in the state that it is in."""


class NotReachable(UserError):
    """The cluster that was asked for, or something on it, does not answer."""


class Abandoned(UserError):
    """The controller of a followed run has not answered for a while; ends a command with exit status 4, since the run may go on."""


class NotStarted(NotReachable):
    """A controller could not even begin, so that nothing of its run runs; the message says why."""


class NotOpen(NotReachable):
    """A controller is there, but does not control its run, or does not understand what it is asked; the message says why."""

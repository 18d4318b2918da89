"""What holds for every test."""

from hypothesis import settings

settings.register_profile("braid", deadline=None)
settings.load_profile("braid")

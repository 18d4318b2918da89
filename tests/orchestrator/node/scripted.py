"""Worker processes that say little Python, for tests of what runs on a node."""

from __future__ import annotations

import sys

from data_pipeline.config import StorageConfig
from orchestrator.messages import Assign, Rendezvous

MEET = Rendezvous(address="127.0.0.1", port=20001)
HEARS = """
import os, signal, subprocess, sys, time
from pathlib import Path
from orchestrator.messages import *
orders = os.fdopen(int(os.environ["BRAID_ORDER_FD"]), "rb")
assign = decode_order(orders.readline())
def say(message):
    os.write(int(os.environ["BRAID_REPORT_FD"]), encode(message))
def train():
    say(Beat(phase=Phase.TRAINING, step=assign.attempt))
"""
TRAINS = HEARS + "train(); time.sleep(120)\n"
"""Ignores every order."""
OBEYS = HEARS + "train(); assert decode_order(orders.readline()) == Stop(); say(Ended(outcome=Outcome.STOPPED, step=assign.attempt))\n"


def command(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def assign(rank: int, attempt: int = 1) -> Assign:
    return Assign(
        run="first",
        storage=StorageConfig(root="/data"),
        config_version=1,
        attempt=attempt,
        rank=rank,
        local_rank=rank,
        world_size=2,
        local_world_size=2,
        rendezvous=MEET,
    )

"""Times the order of 6 T tokens in 12,000 files, read by 16,384 rows a step: `python -m bench.plan`."""

from __future__ import annotations

import itertools

import numpy as np

from bench.timing import Run, medians_s
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan

ROWS = 16_384
SEQ_LEN = 8192
Files = dict[int, tuple[int, float]]
"""By ratio of a source: how many, and the tokens in all."""
ONE: Files = {1: (12_000, 6e12)}
MIXTURE: Files = {6: (9600, 48e11), 3: (1800, 9e11), 1: (600, 3e11)}
ORDERS = {"full": ("full", ONE), "blocks": ("blocks", ONE), "blocks, 3 sources": ("blocks", MIXTURE)}
FIGURES = ("build_plan", "to a first sample", "a step, all rows")


def main() -> None:
    print(f"6 T tokens in 12,000 files, {ROWS:,} rows of {SEQ_LEN}; ms\n" + " " * 20 + "".join(f"{name:>20}" for name in FIGURES))
    for name, (shuffle, files) in ORDERS.items():
        times_s = medians_s(_runs(shuffle, files), rounds=15)
        print(f"{name:<20}" + "".join(f"{times_s[figure] * 1e3:>20.2f}" for figure in FIGURES))


def _runs(shuffle: str, files: Files) -> dict[str, Run]:
    sources = [Source(name=str(ratio), shard_tokens=_sizes(*its)) for ratio, its in files.items()]
    phase = Phase(steps=1, batch_rows=ROWS, seq_len=SEQ_LEN, ratios=tuple(files))

    def build() -> Plan:
        return build_plan(order=Order(seed=34521, shuffle=shuffle, lanes=ROWS), sources=sources, phases=[phase])

    plan, steps = build(), itertools.count(1)
    runs = (build, lambda: build().rows(40_000, range(1)), lambda: plan.rows(next(steps), range(ROWS)))
    return dict(zip(FIGURES, runs, strict=True))


def _sizes(num_files: int, num_tokens: float) -> list[int]:
    """The largest is about twice the smallest."""
    parts = np.random.default_rng(0).uniform(2, 4, num_files)
    return (parts * num_tokens / parts.sum()).astype(np.int64).tolist()


if __name__ == "__main__":
    main()

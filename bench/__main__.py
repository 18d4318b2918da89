"""The benchmarks of the delta rule, the order of samples and data streaming, which run anywhere: `make bench`. Others are commands."""

from bench import data, gdn, plan

for benchmark in (gdn, plan, data):
    benchmark.main()

"""The delta rule's and data streaming's benchmarks, which run anywhere: `make bench`. The others are commands of their own."""

from bench import data, gdn

for benchmark in (gdn, data):
    benchmark.main()

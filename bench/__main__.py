"""The delta rule's and the loader's benchmarks, which run anywhere: `make bench`. The others are commands of their own."""

from bench import gdn, loader

for benchmark in (gdn, loader):
    benchmark.main()

"""Every benchmark that this machine can run: `make bench`."""

from bench import gdn, loader

for benchmark in (gdn, loader):
    benchmark.main()

"""Measurements against peers and against the machine: ``python -m workbench.bench --help``.

A speed is stated as a ratio, measured in one run, with the command that repeats it; every file
that a benchmark writes carries the versions and the machine it was measured with.
"""

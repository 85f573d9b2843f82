"""Many sessions at once, live or simulated: ``python -m workbench.bench sessions --help``.

The same seeded arrivals drive a live engine, the real scheduler on a virtual clock, and a plain
one-at-a-time loop; all three are measured in the same quantities.
"""

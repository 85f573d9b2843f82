"""A race so short that a test can run it; its times mean nothing."""

from __future__ import annotations

import dataclasses

from workbench.bench.race.referee import Options


def smoke(options: Options) -> Options:
    """``options`` with a tiny model, two short contexts, and the peers that are always there."""
    return dataclasses.replace(
        options, size="tiny", contexts=(200, 400), between=(1, 2), answers=("1", "4", "choice"),
        repeats=2, only=options.only or ("workbench", "transformers"),
    )  # fmt: skip

"""A race so short that a test can run it; its times mean nothing."""

from __future__ import annotations

import dataclasses

from workbench.bench.race.options import Options


def smoke(options: Options) -> Options:
    """``options`` with a tiny model, short contexts and mix, and peers that are always there."""
    return dataclasses.replace(
        options, size="tiny", contexts=(200, 400), between=(1, 2), answers=("1", "4", "choice"),
        repeats=2, standing=(1, 3), mix=(3,), mix_seconds=1.0, mix_bars=0.3, mix_asks=0.2,
        mix_context=64, mix_grace=5.0, only=options.only or ("workbench", "transformers-warm"),
    )  # fmt: skip

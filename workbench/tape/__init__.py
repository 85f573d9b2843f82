"""The embedded model: a small Llama that reads rows of data and answers questions about them.

``render`` in ``workbench.streams`` is what it reads, `questions` what it is asked, `train` how it
was made and `evaluate` how it is scored; ``weights/CARD.md`` holds the scores, ``LOG.md`` the way
there.
"""

from __future__ import annotations

from pathlib import Path


def weights_path() -> Path:
    """The folder of the shipped weights and tokenizer, as ``from_pretrained`` takes it."""
    return Path(__file__).parent / "weights"

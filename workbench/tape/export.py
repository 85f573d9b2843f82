"""From a training run to a folder that plain transformers loads, with the beginning of its card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from transformers import GenerationConfig

from workbench.tape.train import Run


def export(run: Run, folder: Path) -> str:
    """Write weights and tokenizer for ``from_pretrained``; returns the weights' digest.

    The scores of weights that the folder had before go with them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("CARD.md", "calibration.json"):  # of the weights that were there
        (folder / name).unlink(missing_ok=True)
    model, tokenizer = run.averaged(), run.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=16,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trained = {
        "recipe": asdict(run.recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": run.step,
        "began": run.began,
        "tokens": run.tokens,
        "minutes": round(run.seconds / 60, 1),
        "sha256": digest(folder),
    }
    (folder / "card.json").write_text(json.dumps({"trained": trained}, indent=1) + "\n")
    return str(trained["sha256"])


def digest(folder: Path) -> str:
    """SHA-256 of the folder's weights file, in hex."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

"""``python -m workbench.tape train|evaluate``: make the embedded model, or score it."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.tape import weights_path


def main() -> None:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m workbench.tape", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train, going on from the checkpoint if it is there")
    train.add_argument("--minutes", type=float, default=55.0, help="time to train for")
    train.add_argument("--steps", type=int, help="train for this many steps instead")
    train.add_argument("--seed", type=int)
    train.add_argument("--device", default="cpu")
    train.add_argument("--checkpoint", type=Path, required=True, help="file to keep progress in")
    train.add_argument("--folder", type=Path, default=weights_path(), help="where to export")
    evaluate = commands.add_parser("evaluate", help="score a folder and write its card")
    evaluate.add_argument("--folder", type=Path, default=weights_path())
    evaluate.add_argument("--questions", type=int, default=200, help="per family and length")
    evaluate.add_argument(
        "--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192]
    )
    evaluate.add_argument("--dry", action="store_true", help="print, and leave the card as it is")
    options = parser.parse_args()
    if options.command == "train":
        from workbench.tape.train import Recipe
        from workbench.tape.train import train as run_training

        kept = {} if options.seed is None else {"seed": options.seed}
        minutes = None if options.steps else options.minutes
        recipe = Recipe(steps=options.steps, minutes=minutes, **kept)
        run_training(recipe, options.folder, options.checkpoint, device=options.device)
    else:
        from workbench.tape.evaluate import evaluate as run_evaluation

        run_evaluation(options.folder, options.lengths, options.questions, write=not options.dry)


if __name__ == "__main__":
    main()

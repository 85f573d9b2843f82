"""``python -m workbench.tape train|export|evaluate``: make the embedded model, or score it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.tape import weights_path

TOKENS = 40_000_000  # the plan of the weights that are shipped
TOKENS_A_MINUTE = 131_000  # of the plan, with the stages after it; by the speeds in LOG.md
CHECKPOINT = "checkpoint.pt"


def main() -> int:
    """Read the command line and run it; returns the exit code."""
    parser = _parser()
    options = parser.parse_args()
    if options.command == "train":
        _check(parser, options)
    commands = {"train": _train, "export": _export, "evaluate": _evaluate}
    try:
        return commands[options.command](options)
    except (WorkbenchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error where options would be ignored."""
    if options.resume:
        for name in ("tokens", "minutes", "seed", "begin_with", "at"):
            if getattr(options, name) is not None:
                word = name.replace("_", "-")
                parser.error(f"--{word}: a run that is resumed keeps its own; leave it out")
    if options.tokens is not None and options.minutes is not None:
        parser.error("expected --tokens or --minutes, got both")
    if options.at is not None and not options.begin_with:
        parser.error("--at: expected with --begin-with")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workbench.tape", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train from nothing, or go on with --resume")
    train.add_argument("--out", type=Path, required=True, help="folder of checkpoint and weights")
    train.add_argument(
        "--tokens", type=int,
        help=f"the plan (default: {TOKENS:,}, of the shipped weights: "
        f"{TOKENS / TOKENS_A_MINUTE:.0f} minutes of two CPU cores)",
    )  # fmt: skip
    train.add_argument(
        "--minutes", type=float,
        help=f"plan {TOKENS_A_MINUTE:,} tokens for each of them instead; the plan stays, however "
        "long it takes",
    )  # fmt: skip
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument(
        "--begin-with", type=Path, metavar="FOLDER",
        help="begin with this folder's weights and tokenizer, at --at",
    )  # fmt: skip
    train.add_argument(
        "--at", type=float,
        help="share of the plan to begin at with --begin-with (default: 0); stages are in the "
        "card's recipe",
    )  # fmt: skip
    train.add_argument("--pause", type=float, help="stop after this many minutes, to go on later")
    train.add_argument("--seed", type=int)
    train.add_argument("--device", help="cuda where there is one, else cpu")
    train.add_argument("--threads", type=int, help="CPU threads")
    export = commands.add_parser("export", help="write the weights of a checkpoint as they are now")
    export.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    export.add_argument("--folder", type=Path, required=True, help="where to write")
    evaluate = commands.add_parser("evaluate", help="score a folder and write its card")
    evaluate.add_argument("--folder", type=Path, default=weights_path())
    evaluate.add_argument(
        "--share", type=float, default=1.0,
        help="of the streams, above 0, for a look; below 1 the card stays as it is",
    )  # fmt: skip
    evaluate.add_argument("--dry", action="store_true", help="print, and leave the card as it is")
    evaluate.add_argument("--threads", type=int, help="CPU threads")
    return parser


def _train(options: argparse.Namespace) -> int:
    import torch

    from workbench.tape.export import export
    from workbench.tape.recipe import Recipe
    from workbench.tape.train import Run, train

    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / CHECKPOINT
    if options.resume:
        if not checkpoint.exists():
            sys.stderr.write(f"{checkpoint} is not there; leave out --resume to begin\n")
            return 1
        run = Run.load(checkpoint, device=device)
    elif checkpoint.exists():
        sys.stderr.write(f"{checkpoint} is there; go on with --resume, or take another --out\n")
        return 1
    else:
        kept = {} if options.seed is None else {"seed": options.seed}
        minutes = options.minutes
        tokens = TOKENS if options.tokens is None else options.tokens
        if minutes is not None:
            tokens = round(minutes * TOKENS_A_MINUTE)
        recipe = Recipe(tokens=tokens, **kept)
        if options.begin_with:
            run = Run.begin_with(options.begin_with, recipe, options.at or 0.0, device=device)
        else:
            run = Run(recipe, device=device)
    if not train(run, checkpoint, pause=options.pause):
        sys.stderr.write(f"paused at {run.done:.1%}; go on with --resume\n")
        return 0
    sys.stdout.write(f"{export(run, options.out / 'weights')} {options.out / 'weights'}\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    from workbench.tape.export import export
    from workbench.tape.train import Run

    if not (options.out / CHECKPOINT).exists():
        raise WorkbenchError(f"{options.out / CHECKPOINT} is not there; train with this --out")
    run = Run.load(options.out / CHECKPOINT)
    sys.stdout.write(f"{export(run, options.folder)} {options.folder}, {run.done:.1%} done\n")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import torch

    from workbench.tape.evaluate import evaluate

    if options.threads:
        torch.set_num_threads(options.threads)
    if not 0 < options.share <= 1:
        raise WorkbenchError(f"--share {options.share:g}: expected above 0, at most 1")
    if options.share < 1 and not options.dry:
        sys.stderr.write("a look at a share of the streams: the card stays as it is\n")
    evaluate(options.folder, share=options.share, write=options.share == 1 and not options.dry)
    return 0


if __name__ == "__main__":
    sys.exit(main())

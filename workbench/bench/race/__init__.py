"""The race: the same stream and questions for our sessions and for the engines people use."""

from workbench.bench.race.command import DESCRIPTION, add_arguments

__all__ = ["DESCRIPTION", "add_arguments"]

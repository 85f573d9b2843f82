"""Choosing tile sizes from measurements: the choice alone, without a GPU."""

import pytest

from workbench_kernels import bench_gpu, tune
from workbench_kernels.tuning import Block

SMALL, LARGE, LARGER = Block(16, 1, 3), Block(64, 4, 3), Block(128, 8, 3)


def measured(cells, block, one, many, digest="a"):
    """Takes ``one`` second where 16 packed rows hold the work, ``many`` elsewhere."""
    seconds = {
        name: one if branches * rows * tune.GROUP <= 16 else many
        for name, (branches, rows, _) in tune.WORK.items()
    }
    return tune.Measured(cells, block, seconds, digest)


def test_the_fastest_blocks_for_small_and_large_work_go_together():
    found = [measured(64, SMALL, 1, 9), measured(64, LARGE, 2, 3), measured(64, LARGER, 4, 4)]
    assert tune.choose(found) == (64, (SMALL, LARGE))


def test_blocks_that_round_differently_do_not_go_together():
    found = [measured(64, SMALL, 1, 9, "a"), measured(64, LARGE, 2, 3, "b")]
    assert tune.choose(found) == (64, (LARGE,))
    found = [measured(32, SMALL, 1, 9), measured(64, LARGE, 2, 3)]
    assert tune.choose(found) == (64, (LARGE,))


def test_a_block_that_gains_next_to_nothing_is_left_out():
    found = [measured(64, SMALL, 1.99, 9), measured(64, LARGE, 2, 3)]
    assert tune.choose(found) == (64, (LARGE,))


def test_work_is_charged_to_the_block_that_will_run_it():
    """A small block is no help to work that does not fit it, however fast it was alone."""
    small, large = measured(64, SMALL, 1, 1), measured(64, LARGE, 2, 3)
    times = tune.taken([large, small])
    assert times["1 token, 19k"] == 1 and times["16 tokens, 19k"] == 3


def test_what_cannot_fit_is_not_tried():
    assert tune.plausible(64, LARGE, 128)
    assert not tune.plausible(128, Block(64, 4, 4), 256)  # 512 KiB in flight
    assert not tune.plausible(32, Block(128, 4, 2), 256)  # 288 registers


@pytest.mark.parametrize("command", [tune.main, bench_gpu.main])
def test_without_a_gpu_nothing_is_measured(command, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command([]) == 1
    assert capsys.readouterr() == ("", "torch finds no CUDA device\n")


def test_a_line_stands_under_its_headings():
    row = {"dim": 64, "branches": 16, "rows": 1, "cells": 131072, "us": 1234.56, "gb_s": 3456.7,
           "of_copy": 0.8123, "of_possible": 0.8123,
           "peers": {"SDPA": 2469.1, "flex": 13.0, "flash": "none"}}  # fmt: skip
    text = bench_gpu.line(row)
    assert text == (
        "  64       16    1  131072 |   1234.6   3457     81%          81% |"
        "   2469.1     13.0        -"
    )
    assert text.index("|") == bench_gpu.HEADINGS.index("|")
    assert text.rindex("|") == bench_gpu.HEADINGS.rindex("|")

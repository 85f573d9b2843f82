"""Peers' allocators are told to ask for large pages, once."""

import json
import os
import subprocess
import sys

from workbench.bench.large_pages import TORCH, TUNABLE, with_large_pages


def test_what_an_environment_says_already_stays():
    assert with_large_pages({}) == {TORCH: "1", "GLIBC_TUNABLES": TUNABLE}
    told = {TORCH: "0", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "A": "b"}
    assert with_large_pages(told) == told
    more = with_large_pages({"GLIBC_TUNABLES": "glibc.malloc.perturb=1"})
    assert more["GLIBC_TUNABLES"] == f"glibc.malloc.perturb=1:{TUNABLE}"
    assert with_large_pages(more) == more


def test_a_process_starts_again_with_its_arguments():
    script = (
        "import json, os, sys\n"
        "from workbench.bench.large_pages import start_again\n"
        "start_again()\n"
        "print(json.dumps([sys.argv[1:], os.environ.get('GLIBC_TUNABLES')]))"
    )
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", script, "--contexts", "a b"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    arguments, tunables = json.loads(done.stdout)
    assert arguments == ["--contexts", "a b"]
    assert tunables == (TUNABLE if sys.platform == "linux" else None)

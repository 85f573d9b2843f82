"""Large pages for peers: what our engine asks for itself, allocators of others are told here.

Linux mostly gives pages of 2 MB to who asks alone. With these settings a question of 8 tokens over
9,500 tokens of the 258 M model took transformers' static cache 692 to 712 ms instead of 819, its
DynamicCache 1,680 to 1,703 instead of 1,779; vLLM, OpenVINO and llama.cpp the same as without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

TUNABLE = "glibc.malloc.hugetlb=1"  # the C library's allocator
TORCH = "THP_MEM_ALLOC_ENABLE"  # torch's own for tensors


def with_large_pages(env: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes ask for large pages; what it says about that already stays."""
    tunables = env.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        tunables = ":".join(filter(None, [tunables, TUNABLE]))
    return {TORCH: "1", **env, "GLIBC_TUNABLES": tunables}


def start_again() -> None:
    """Start this very process again with large pages, if it has none: allocators look only once."""
    wanted = with_large_pages(os.environ)
    if sys.platform == "linux" and wanted != dict(os.environ):
        os.execve(sys.executable, sys.orig_argv, wanted)

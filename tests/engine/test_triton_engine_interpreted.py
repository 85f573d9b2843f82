"""A whole engine on the Triton kernels, in Triton's interpreter: `test_triton_engine` on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_an_engine_in_the_interpreter():
    """In a process of its own: what is set when kernels are defined decides."""
    # Interpreted products are NumPy's: on processors with AVX-512 some kernels of its BLAS round a
    # row by how many others there are. This one does not.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OPENBLAS_CORETYPE": "Haswell"}
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider",
               str(HERE / "test_triton_engine.py")]  # fmt: skip
    run = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "16 passed, 1 skipped" in run.stdout, run.stdout

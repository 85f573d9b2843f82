"""The kernels of a CUDA device, in Triton; importing them needs neither a device nor a driver.

Under ``TRITON_INTERPRET=1`` (set before the import) the same functions take CPU tensors: the
interpreter runs the kernels' own source, slowly. Otherwise they launch on the tensors' device.
"""

from workbench_kernels.gpu.attention import attend, index_of
from workbench_kernels.gpu.elementwise import add_norm, gate, norm
from workbench_kernels.gpu.merging import merge
from workbench_kernels.gpu.scoring import score
from workbench_kernels.gpu.writing import rotate_and_write, write_cells, write_kv

__all__ = [
    "add_norm", "attend", "gate", "index_of", "merge", "norm", "rotate_and_write", "score",
    "write_cells", "write_kv",
]  # fmt: skip

"""The compiled CPU kernels: loaded if the install could build them and the processor has them.

``available()`` says whether, ``reason()`` why not. Nothing changes silently with it: both paths are
tested against the same float64 reference, and ``workbench_kernels.active()`` names the one in use.
"""

from workbench_kernels.native.attention import attend, fits
from workbench_kernels.native.layers import Layers, LayerWeights
from workbench_kernels.native.library import available, reason
from workbench_kernels.native.linear import INNER, linear, pack, packed_shape, unpack
from workbench_kernels.native.openmp import alone
from workbench_kernels.native.peak import peak_flops
from workbench_kernels.native.scoring import norm_rows, score, scores_fit

__all__ = [
    "INNER", "LayerWeights", "Layers", "alone", "attend", "available", "fits", "linear",
    "norm_rows", "pack", "packed_shape", "peak_flops", "reason", "score", "scores_fit", "unpack",
]  # fmt: skip

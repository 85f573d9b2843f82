"""Which cell holds which token: plain integers, except ``tensors``, which owns the bytes."""

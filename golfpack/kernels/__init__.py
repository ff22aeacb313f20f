"""Inner loops for a GPU: each in Triton, beside a plain twin in torch that it must equal.

`select` says which of them runs where. A twin runs on any device; a kernel needs triton and a CUDA
device, or Triton's interpreter (TRITON_INTERPRET=1), which the tests use. docs/kernels.md has what each
does, how equal it is to its twin, and what was measured.
"""

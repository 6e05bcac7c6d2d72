"""Make arithmetic the same on every CPU of one kind; found through PYTHONPATH by each Python."""

import os

# Before torch is loaded: no kernels for wider vectors, and the one code path of MKL that all have.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
os.environ["MKL_CBWR"] = "COMPATIBLE"
os.environ["DNNL_MAX_CPU_ISA"] = "SSE41"

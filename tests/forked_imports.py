"""Imports what a worker imports, after what it sets before: see `forked`."""

import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"

from services.trainer.worker import __main__

__main__.leave_out_quantizer()
for room in ("loop", "plan", "template"):
    importlib.import_module(f"services.trainer.{room}")

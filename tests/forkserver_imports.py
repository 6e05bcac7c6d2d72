"""Imports what a worker imports, after what it sets before: see `forked`."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

from services.trainer.worker import __main__


def imported() -> None:
    """Import what a worker does once it knows that its base is not quantised."""
    __main__.leave_out_quantizer()
    import services.model.template
    import services.trainer.worker.data.plan
    import services.trainer.worker.loop  # noqa: F401


imported()

"""The trainer: `python -m services.trainer`."""

import asyncio
import sys

from services.trainer import device
from services.trainer.nvml import driver
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor import api, gpu, own_lease
from services.trainer.supervisor.close import prune_bases
from services.trainer.supervisor.decide import look_for_work
from services.trainer.supervisor.held import HeldSegment
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.observe import keep_observed
from services.trainer.supervisor.run.worker_process import environment
from services.trainer.supervisor.trainer import Trainer
from shared.bus.client import Bus
from shared.files import write_synced
from shared.service import http, loop
from shared.service.start import load_settings
from shared.store.s3 import Store

PRUNE_SECONDS = 60.0


async def measured_dtype(settings: TrainerSettings) -> str:
    """Return float32 or bfloat16, as measured on this machine.

    The measurement is kept and made again when the device or torch's version changes.
    """
    kept = device.file_in(settings.state_dir)
    if settings.device == "cuda" and not driver():
        raise SystemExit("no GPU answers, and DURAMEN_DEVICE=cuda: the start is tried again")
    if not device.holds(kept, settings.device):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.trainer.worker.number_format", settings.device),
            env=environment(settings.threads),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError("the measurement of the number format failed; see the log above")
        write_synced(kept, output)
    return str(device.measurement(kept)["dtype"])


async def main(settings: TrainerSettings) -> None:
    """Lock the checkpoint folder, connect, and look for work until the service ends."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    if own_lease.lock_folder(settings.state_dir / "supervisor.lock") is None:
        raise SystemExit(f"another trainer runs on {settings.state_dir}")
    store = Store.of(settings)
    chosen = await measured_dtype(settings)
    bus = Bus.of(settings)
    async with bus:
        name = own_lease.lease_name(settings.state_dir)
        lease = own_lease.OwnLease(bus, name, loop.instance("trainer"), settings.lease_seconds)
        trainer = Trainer(
            settings, bus, Local(settings.state_dir, store), chosen, HeldSegment(lease)
        )
        for subject in ("jobs.>", "ctl.desired.trainer", "ctl.once.trainer"):
            await bus.subscribe(subject, trainer.wake.set)
        await loop.run(
            lease.keep(),
            *([gpu.watch_gpu()] if settings.device == "cuda" else []),
            keep_observed(trainer),
            trainer.disks.keep(),
            loop.repeat(
                "bases",
                lambda: prune_bases(trainer),
                asyncio.Event(),
                PRUNE_SECONDS,
                trainer.outage.alarms,
            ),
            loop.repeat(
                "trainer",
                lambda: look_for_work(trainer),
                trainer.wake,
                1.0,
                trainer.outage.alarms,
            ),
            http.serve(api.make(settings, trainer, store), settings),
        )


if __name__ == "__main__":
    asyncio.run(main(load_settings(TrainerSettings)))

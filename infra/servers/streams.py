"""The streams of the bus, and their configuration on the server."""

from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError

from shared.bus.skipped import SKIPPED_RANGES, UNFINISHED
from shared.errors import DuramenError

MIB = 2**20
MAX_MSG_BYTES = 16 * 1024
EVENT_SECONDS = 30 * 86400.0
MAX_CONSUMERS = 256  # at once on a stream: a reader has one for as long as it reads
NAME_IN_USE = 10058  # the stream exists with another configuration

# max_bytes is reserved on the disk's account: the sum must stay under max_file_store (nats.conf).
STREAMS = {
    # The queue, the ledgers and their audit: nothing in it is ever removed, a full stream refuses.
    "JOBS": {"subjects": ["jobs.>"], "max_bytes": 1024 * MIB, "discard": DiscardPolicy.NEW},
    "CTL": {
        "subjects": ["ctl.desired.*", "ctl.once.*"],
        "max_bytes": 128 * MIB,
        "discard": DiscardPolicy.NEW,
    },
    "OBS": {
        # A subject an instance; those of one level are from before there were any.
        "subjects": ["ctl.observed.>"],
        "max_bytes": 64 * MIB,
        "max_msgs_per_subject": 16,
        "discard": DiscardPolicy.OLD,
    },
    "EVT": {
        "subjects": ["evt.>"],
        "max_bytes": 1024 * MIB,
        "max_age": EVENT_SECONDS,
        "discard": DiscardPolicy.OLD,
    },
    "LEASE": {
        "subjects": ["lease.>"],
        "max_bytes": 16 * MIB,
        "max_msgs_per_subject": 1,
        "discard": DiscardPolicy.OLD,
    },
}


def stream_config(name: str) -> StreamConfig:
    """Return the whole configuration of stream `name`; sizes in bytes, ages in seconds."""
    config = StreamConfig(
        name=name,
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=1,
        max_consumers=MAX_CONSUMERS,
        max_msg_size=MAX_MSG_BYTES,
        deny_delete=True,
        deny_purge=True,
        # A roll-up header would wipe all leases at once.
        allow_rollup_hdrs=False,
        # A direct get is answered from memory of any replica; and its reply could be forged into
        # a subject without a compare-and-set.
        allow_direct=False,
    )
    return config.evolve(**STREAMS[name])


class RecoveryUnfinished(DuramenError):
    """A recovery of the bus was cut off, so its streams are not whole."""

    exit_code = 7
    next_step = "duramen recover"


async def make_streams(js: JetStreamContext) -> None:
    """Create every stream, or bring an existing one to this configuration.

    Consumers that outlive their readers are deleted: none of ours does, and they count. Raises
    RecoveryUnfinished for a stream that a recovery did not fill to its end.
    """
    for name in STREAMS:
        config = stream_config(name)
        try:
            await js.add_stream(config)
        except APIError as error:
            if error.err_code != NAME_IN_USE:
                raise
            metadata = (await js.stream_info(name)).config.metadata or {}
            if UNFINISHED in metadata:
                raise RecoveryUnfinished from error
            kept = {key: said for key, said in metadata.items() if key == SKIPPED_RANGES}
            await js.update_stream(config.evolve(metadata=kept))
        for consumer in await all_consumers(js, name):
            if consumer.config.durable_name:
                await js.delete_consumer(name, consumer.name)


async def all_consumers(js: JetStreamContext, stream: str) -> list[ConsumerInfo]:
    """Return every consumer of a stream; the server tells of 256 at a time."""
    found: list[ConsumerInfo] = []
    while page := await js.consumers_info(stream, offset=len(found)):
        found += page
    return found

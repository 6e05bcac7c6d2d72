"""The start of a SeaweedFS server: everything but S3 is for its own process only."""

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

FSYNC = "fs.configure -locationPrefix=/buckets/ -fsync -apply\n"
FSYNC_SET = re.compile(r'"fsync":\s*true')
SHELL_SECONDS = 30


@dataclass(frozen=True)
class WeedServer:
    """One store: its data, the folder of its security.toml, its S3 identities, its ports."""

    name: str
    data_dir: Path
    config_dir: Path
    s3_config: Path
    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    host: str = "127.0.0.1"

    def seen_from(self, folder: Path) -> "WeedServer":
        """Return the same server, started in `folder`, in which its paths are relative.

        The server replaces `$NAME` in the path of its configuration, which it then does not find,
        and takes a comma in that of its data for the beginning of a second path.
        """
        return replace(
            self,
            data_dir=self.data_dir.relative_to(folder),
            config_dir=self.config_dir.relative_to(folder),
            s3_config=self.s3_config.relative_to(folder),
        )

    def command(self, weed: Path) -> list[str]:
        """Return the command line. The server reads -config_dir before its own flags."""
        return [
            str(weed),
            "-logtostderr=true",
            f"-config_dir={self.config_dir}",
            "server",
            f"-dir={self.data_dir}",
            f"-ip={self.host}",
            f"-ip.bind={self.host}",
            # Master and filer by gRPC alone: by HTTP the master obeys anybody.
            "-disableHttp",
            "-filer",
            "-s3",
            f"-s3.config={self.s3_config}",
            f"-s3.port={self.s3}",
            f"-s3.port.grpc={self.s3_grpc}",
            f"-master.port={self.master}",
            f"-master.port.grpc={self.master_grpc}",
            f"-volume.port={self.volume}",
            f"-volume.port.grpc={self.volume_grpc}",
            f"-filer.port={self.filer}",
            f"-filer.port.grpc={self.filer_grpc}",
            # Unused doors.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-filer.exposeDirectoryData=false",
            "-filer.ui.deleteDir=false",
            "-master.telemetry=false",
            # Deleting a bucket would otherwise delete all that is in it.
            "-s3.allowDeleteBucketNotEmpty=false",
            # A bucket takes seven volumes at once; without free slots each PUT is a 500.
            "-volume.max=200",
            "-master.volumeSizeLimitMB=1024",
            # Start and stop in seconds.
            "-volume.preStopSeconds=0",
            "-master.electionTimeout=1s",
        ]

    def shell(self, weed: Path) -> list[str]:
        """Return the command line of the administration shell, which reads standard input."""
        return [
            str(weed),
            f"-config_dir={self.config_dir}",
            "shell",
            f"-master={self.host}:{self.master}.{self.master_grpc}",
            f"-filer={self.host}:{self.filer}.{self.filer_grpc}",
        ]

    def set_fsync(self, weed: Path, folder: Path) -> None:
        """Make every write to a bucket wait for the disk. The setting is kept by the server.

        `folder` is the one that its paths are relative to.

        Raises RuntimeError with the shell's output when the server did not take it.
        """
        done = subprocess.run(
            self.shell(weed),
            cwd=folder,
            input=FSYNC,
            capture_output=True,
            text=True,
            timeout=SHELL_SECONDS,
        )
        if not FSYNC_SET.search(done.stdout):
            raise RuntimeError(f"{self.name}: fsync could not be set:\n{done.stdout}{done.stderr}")

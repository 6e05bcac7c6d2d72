"""The S3 identities of both stores and their policies, rendered for SeaweedFS.

Every action is listed, never `s3:*`; each bucket-level action names the bare bucket. Nobody but the
bootstrap may delete under `duramen`, and nobody at all in the backup: whoever holds the keys of all
the services can still destroy nothing there.
"""

import json
from collections.abc import Iterable
from typing import Any

from infra.secrets.secrets import IDENTITIES, Secrets

Statement = dict[str, Any]

READ = ("s3:GetObject", "s3:GetObjectVersion")
WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
DELETE = ("s3:DeleteObject",)
LIST = ("s3:ListBucket", "s3:GetBucketLocation", "s3:GetBucketVersioning")
# Under `duramen` the oldest version of a key is the truth: who reads there lists versions.
LIST_VERSIONS = (*LIST, "s3:ListBucketVersions", "s3:GetBucketObjectLockConfiguration")
RETAIN = (
    "s3:GetObjectRetention",
    "s3:PutObjectRetention",
    "s3:GetObjectLegalHold",
    "s3:PutObjectLegalHold",
)
NEVER = (
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:BypassGovernanceRetention",
    "s3:DeleteBucket",
    "s3:PutBucketVersioning",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucketObjectLockConfiguration",
)


def allow(actions: Iterable[str], *resources: str) -> Statement:
    return _statement("Allow", actions, resources)


def deny(actions: Iterable[str], *resources: str) -> Statement:
    return _statement("Deny", actions, resources)


def _statement(effect: str, actions: Iterable[str], resources: Iterable[str]) -> Statement:
    arns = [f"arn:aws:s3:::{resource}" for resource in resources]
    # Sorted: what is rendered is hashed, and must not change from one run to the next.
    return {"Effect": effect, "Action": sorted(actions), "Resource": arns}


# What is precious is out of reach of every service, whatever another statement may allow.
DENY_PRECIOUS = deny(NEVER, "duramen", "duramen/*")
EVERYWHERE = deny(set(NEVER) - set(DELETE), "work", "work/*")

POLICIES: dict[str, dict[str, list[Statement]]] = {
    "store": {
        "ingest": [
            allow((*READ, *WRITE), "duramen/datasets/*", "duramen/eval/*"),
            # The special tokens of a base; which rows a plan left out.
            allow(READ, "duramen/bases/*", "duramen/plans/*"),
            # Which rows were too many bad ones for a job that failed.
            allow(READ, "work/results/*"),
            allow(LIST_VERSIONS, "duramen"),
        ],
        "trainer": [
            allow(READ, "duramen/*"),
            allow(WRITE, "duramen/plans/*"),
            allow((*READ, *WRITE, *DELETE), "work/*"),
            deny((*WRITE, *DELETE), "work/audit/*"),  # the vault's export of the bus
            allow(LIST_VERSIONS, "duramen"),
            allow(LIST, "work"),
        ],
        "vault": [
            allow((*READ, *WRITE, *RETAIN), "duramen/*"),
            allow(READ, "work/*"),
            allow((*WRITE, *DELETE), "work/staging/*"),
            allow(WRITE, "work/audit/*"),
            allow(LIST_VERSIONS, "duramen"),
            allow(LIST, "work"),
        ],
        "evolution": [
            allow(READ, "duramen/*", "work/*"),
            allow(LIST_VERSIONS, "duramen", "work"),
        ],
        "ctl": [
            allow(READ, "duramen/*", "work/*"),
            allow(WRITE, "work/staging/*"),
            allow(LIST_VERSIONS, "duramen", "work"),
        ],
        "reader": [
            allow(READ, "duramen/*"),
            allow(LIST_VERSIONS, "duramen"),
        ],
    },
    "backup": {
        "vault": [
            allow((*READ, *WRITE, *RETAIN), "duramen/*"),
            allow(LIST_VERSIONS, "duramen"),
        ],
        "reader": [
            allow(READ, "duramen/*"),
            allow(LIST_VERSIONS, "duramen"),
        ],
    },
}


def policy(server: str, identity: str) -> dict[str, Any]:
    """Return the IAM policy document of `identity` on `server`."""
    statements = [*POLICIES[server][identity], DENY_PRECIOUS, EVERYWHERE]
    return {"Version": "2012-10-17", "Statement": statements}


def s3_json(server: str, secrets: Secrets) -> str:
    """Return SeaweedFS's -s3.config: the identities of `server` with their policies."""
    identities, policies = [], []
    for name in IDENTITIES[server]:
        keys = secrets.keys(name, server)
        entry: dict[str, Any] = {
            "name": name,
            "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
        }
        if name == "admin":
            entry["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        else:
            entry["policyNames"] = [f"{name}-policy"]
            policies.append({"name": f"{name}-policy", "content": json.dumps(policy(server, name))})
        identities.append(entry)
    return json.dumps({"identities": identities, "policies": policies}, indent=1)

"""The users and policies of a MinIO server, provisioned through its administration API.

The policies are those that SeaweedFS reads from a file. Here the server itself keeps them; they are
written again at each start, so that a changed policy or a replaced secret takes effect. A key that
was replaced may be known to others: a user who has one of these policies but is not one of these
users is removed.
"""

import json
from urllib.parse import urlparse

import urllib3
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from infra.secrets.secrets import IDENTITIES, Secrets
from infra.servers.identities import policy

ALREADY = "PolicyChangeAlreadyApplied"


def provision(url: str, server: str, secrets: Secrets, pool: urllib3.PoolManager) -> None:
    """Create every identity of `server` with its keys and its policy.

    The root user is not an identity. Raises MinioAdminException for what the server refuses.
    """
    root, found = secrets.keys("admin", server), urlparse(url)
    admin = MinioAdmin(
        endpoint=found.netloc,
        credentials=StaticProvider(root.access, root.secret),
        secure=found.scheme == "https",
        http_client=pool,
    )
    known = set()
    for identity in IDENTITIES[server]:
        if identity == "admin":
            continue
        keys = secrets.keys(identity, server)
        known.add(keys.access)
        admin.policy_add(f"duramen-{identity}", policy=policy(server, identity))
        admin.user_add(keys.access, keys.secret)
        attach(admin, f"duramen-{identity}", keys.access)
    for user, about in json.loads(admin.user_list()).items():
        if user not in known and str(about.get("policyName", "")).startswith("duramen-"):
            admin.user_remove(user)


def attach(admin: MinioAdmin, name: str, user: str) -> None:
    """Give `user` the policy; it is not an error if the user already has it."""
    try:
        admin.attach_policy([name], user=user)
    except MinioAdminException as error:
        if not has_policy_already(error):
            raise


def has_policy_already(error: MinioAdminException) -> bool:
    """Return whether the server refused only because the user has the policy already.

    The client keeps status and body of the reply to itself and has one class for all refusals; the
    status alone would not tell. So the server's code for it is looked for in the error's text.
    """
    return ALREADY in str(error)

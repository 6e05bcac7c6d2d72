"""HTTP clients for our own addresses: bus monitor, stores, services, Prometheus.

They never use a proxy, whatever HTTP_PROXY and similar variables say: a proxy cannot reach an
address of this host or of its containers, and would see our tokens. Requests to the world outside,
such as the hub's downloads and notifications, use the proxy, and not these clients.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded when used: most commands ask the bus alone
    import httpx
    import urllib3


def http(**options: Any) -> "httpx.Client":
    """Return a client that takes httpx's own options."""
    import httpx

    return httpx.Client(trust_env=False, **options)


def http_async(**options: Any) -> "httpx.AsyncClient":
    """Return an asynchronous client that takes httpx's own options."""
    import httpx

    return httpx.AsyncClient(trust_env=False, **options)


def store_pool() -> "urllib3.PoolManager":
    """Return a service's connections to a store, which try again where that is harmless."""
    import urllib3

    again = urllib3.Retry(total=2, read=1, backoff_factor=0.2, status_forcelist=(502, 503, 504))
    # A server that hangs is away after a minute: whoever pauses meanwhile waits for it.
    return pool(timeout=urllib3.Timeout(connect=3, read=30), retries=again, maxsize=8)


def pool(**options: Any) -> "urllib3.PoolManager":
    """Return connections for a client of a store, which would otherwise ask the environment."""
    import urllib3

    return urllib3.PoolManager(**options)

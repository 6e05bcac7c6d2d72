"""The health check of a container: `python -m shared.service.health` asks /healthz.

It asks the container's own service. Nothing is imported that takes time, because it runs every few
seconds.
"""

import os
import sys
import urllib.error
import urllib.request

SECONDS = 7


def main() -> int:
    url = f"http://127.0.0.1:{os.environ['DURAMEN_HTTP_PORT']}/healthz"
    try:
        # By no proxy: it could not reach this container's own address.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except urllib.error.HTTPError as error:
        print(error.read().decode(errors="replace")[:500], file=sys.stderr)
    except OSError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""What a test does to an etcd of other hosts: `etcd_admin.py COMMAND URL CA CERTIFICATE KEY`.

leader    print whether the member is the leader
compact   compact all history before now
revoke    revoke the leases of all nodes
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from typing import Any


def main() -> None:
    command, url, ca, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)

    def post(path: str, **body: Any) -> Any:
        with opener.open(f"{url}/v3/{path}", json.dumps(body).encode(), timeout=3) as answer:
            return json.load(answer)

    if command == "leader":
        status = post("maintenance/status")
        print(status.get("leader", "0") == status["header"]["member_id"])
    elif command == "compact":
        revision = post("kv/range", key="YQ==")["header"]["revision"]
        post("kv/compaction", revision=revision)
    else:
        for lease in post("lease/leases").get("leases", ()):
            post("lease/revoke", ID=lease["ID"])


if __name__ == "__main__":
    main()

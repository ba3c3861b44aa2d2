"""Gateway in a process of its own, which tests kill: `python -m … LEDGER_URL KEYS_FILE PORT`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from perdure.gateway.server import serve
from perdure.kube.tokens import TokenVerifier
from perdure.ledger import Ledger
from perdure.settings import Settings
from tests.integration.gateway.keys import AUDIENCE


async def main(ledger_url: str, documents: dict[str, Any], port: int) -> None:
    async def fetch(path: str) -> Any:
        return documents[path]

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Ledger(ledger_url) as ledger:
        await serve(
            Settings(gateway_host="127.0.0.1", gateway_port=port),
            ledger=ledger,
            verifier=TokenVerifier(fetch, audience=AUDIENCE),
            stop=stop,
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])))

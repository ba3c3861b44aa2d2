"""Prints the ids of the events that JetStream has of a subject; run in the operator's image.

Arguments: the subject, how many different ones to wait for, and for how many seconds.
"""

import asyncio
import json
import os
import sys

import nats
import nats.errors


async def main(subject: str, wanted: int, seconds: float) -> None:
    connection = await nats.connect(os.environ["PERDURE_NATS_URL"])
    try:
        subscription = await connection.jetstream().subscribe(subject, ordered_consumer=True)
        ids: list[str] = []
        deadline = asyncio.get_running_loop().time() + seconds
        while len(set(ids)) < wanted and asyncio.get_running_loop().time() < deadline:
            try:
                message = await subscription.next_msg(timeout=1)
            except (TimeoutError, nats.errors.TimeoutError):
                continue
            ids.append(json.loads(message.data)["id"])
        print(json.dumps(ids))
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))

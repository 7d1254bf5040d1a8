"""`python -m tests.scenarios.forestmq_client_process URL`: the public client, `forestmq`.

A process of its own: its import sets up the root logger.  Sends each line of standard input, a
JSON object, with the client's asynchronous send.
"""

import asyncio
import json
import sys

from forestmq import ForestMQ  # type: ignore[import-not-found,unused-ignore]


async def send(url: str) -> None:
    queue = ForestMQ(domain=url)
    for line in sys.stdin:
        answer = await queue.provider.send_msg(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1]))

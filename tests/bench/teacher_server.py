"""An OpenAI-compatible teacher on loopback: each answer takes 200 ms and follows from the request. Prints its port."""
import asyncio
import hashlib
import json
import re
import sys
import time

LATENCY = 0.2


def answer(messages: list[dict]) -> tuple[str, str]:
    "A digest of the request, and an answer in ChatAdapter's format that has it in each field."
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
    asked = messages[-1]["content"].rpartition("Respond with the corresponding output fields")[2]
    fields = [f for f in re.findall(r"\[\[ ## (\w+) ## \]\]", asked) if f != "completed"]
    return digest, "".join(f"[[ ## {f} ## ]]\n{digest}\n\n" for f in fields) + "[[ ## completed ## ]]"


async def serve(reader, writer, log):
    "Answer the requests of one connection. The log has a line when a request has arrived, and one when its answer is sent."
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(re.search(rb"content-length: *(\d+)", head, re.I)[1])
            body = json.loads(await reader.readexactly(length))
            digest, text = answer(body["messages"])
            print("arrived", digest, time.monotonic(), file=log)
            await asyncio.sleep(LATENCY)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            data = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
            print("sent", digest, time.monotonic(), file=log)
    except (asyncio.IncompleteReadError, ConnectionError):  # the client is gone
        pass
    finally:
        writer.close()


async def main(path: str):
    with open(path, "a", buffering=1) as log:
        server = await asyncio.start_server(lambda r, w: serve(r, w, log), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

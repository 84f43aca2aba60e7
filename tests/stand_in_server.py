"""A real HTTP server process with vLLM's response shape, for the tests: a testbed checkpoint behind one address.

In: a checkpoint folder on the command line. Out: the address on stdout once it listens, then replies made by the
local engine (one at a time: a model is not thread-safe). `POST /stand_in` sets how the next replies go wrong (see
FAULTS and `Handler.misbehave`), `GET /stand_in` says what was asked. Never a claim about vLLM beyond the fields.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import gzip
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.response import Response
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item

KEY = "sk-of-the-tests"


def read_item(body: dict[str, Any]) -> Item:
    """Return the item that a request shows: tags only where a picture comes behind a text."""
    images: list[bytes] = []
    texts: list[str] = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "text":
            texts.append(part["text"])
            continue
        kind, _, data = part["image_url"]["url"].partition(",")
        assert kind == "data:image/png;base64"
        images.append(base64.b64decode(data))
        texts += [f"<image {len(images)}>"] if texts else []
    return Item("served", "", "test", tuple(images), "".join(texts), "", "other")


def obey(vlm: VLM, body: dict[str, Any]) -> VLM:
    """Return the model with the pixel budget and the template's switches that a request states."""
    processor = copy.copy(vlm.processor)
    processor.image_processor = copy.deepcopy(processor.image_processor)
    processor.image_processor.size = type(processor.image_processor.size)(**body["mm_processor_kwargs"]["size"])
    return dataclasses.replace(vlm, processor=processor, template_options=body["chat_template_kwargs"])


def answer(vlm: VLM, body: dict[str, Any]) -> dict[str, Any]:
    """Generate, and return what vLLM returns."""
    sampling = Sampling(
        body["max_completion_tokens"], body["temperature"], body["top_p"], max(0, body["top_k"]), body["seed"]
    )
    (response,) = generate_responses(vlm, [read_item(body)], sampling, batch_size=1, progress=False)
    return write_reply(response, body["return_token_ids"])


def write_reply(response: Response, with_ids: bool) -> dict[str, Any]:
    ids, prompt_ids = list(response.response_ids), list(response.prompt_ids)
    choice = {
        "index": 0, "message": {"role": "assistant", "content": response.text, "reasoning": None, "tool_calls": []},
        "logprobs": None, "finish_reason": "length" if response.finish_reason == "length" else "stop",
        "stop_reason": None, "token_ids": ids if with_ids else None,
    }  # fmt: skip
    usage = {"prompt_tokens": len(prompt_ids), "completion_tokens": len(ids), "total_tokens": len(prompt_ids + ids)}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stand-in", "choices": [choice],
        "usage": usage, "prompt_token_ids": prompt_ids if with_ids else None, "kv_transfer_params": None,
    }  # fmt: skip


def change_choice(**fields: Any) -> Callable[[VLM, dict[str, Any]], None]:
    return lambda vlm, reply: reply["choices"][0].update(fields)


def change_ids(change: Callable[[VLM, list[int]], list[int]]) -> Callable[[VLM, dict[str, Any]], None]:
    """Return a fault that puts other ids into the reply, counted as they are."""

    def spoil(vlm: VLM, reply: dict[str, Any]) -> None:
        ids = reply["choices"][0]["token_ids"] = change(vlm, reply["choices"][0]["token_ids"])
        reply["usage"]["completion_tokens"] = len(ids)

    return spoil


def strip_end(vlm: VLM, reply: dict[str, Any]) -> None:
    """Leave the end-of-sequence id out of the ids; it is still counted."""
    choice = reply["choices"][0]
    choice["token_ids"] = [i for i in choice["token_ids"] if i not in vlm.eos_ids]


def name_end(vlm: VLM, reply: dict[str, Any]) -> None:
    strip_end(vlm, reply)
    reply["choices"][0]["stop_reason"] = vlm.eos_ids[0]


def name_other_end(vlm: VLM, reply: dict[str, Any]) -> None:
    strip_end(vlm, reply)
    reply["choices"][0]["stop_reason"] = "done"


def collapse_images(vlm: VLM, reply: dict[str, Any]) -> None:
    """Show one placeholder an image."""
    reply["prompt_token_ids"] = [
        i for i, run in groupby(reply["prompt_token_ids"]) for i in (run if i != vlm.image_token_id else [i])
    ]


def change_prompt(vlm: VLM, reply: dict[str, Any]) -> None:
    reply["prompt_token_ids"][2:3] = []


def speak_sglang(vlm: VLM, reply: dict[str, Any]) -> None:
    """Move the fields to where SGLang has them, and leave the end to `matched_stop`."""
    choice = reply["choices"][0]
    strip_end(vlm, reply)
    del choice["stop_reason"]
    choice |= {"matched_stop": vlm.eos_ids[0], "prompt_token_ids": reply.pop("prompt_token_ids")}


def count_fewer(vlm: VLM, reply: dict[str, Any]) -> None:
    reply["usage"]["completion_tokens"] -= 3


def drop_ids(vlm: VLM, reply: dict[str, Any]) -> None:
    """Leave only text, as `transformers serve` does."""
    del reply["prompt_token_ids"], reply["choices"][0]["token_ids"]


FAULTS: dict[str, Callable[[VLM, dict[str, Any]], None]] = {
    "text only": drop_ids,
    "reasoning apart": lambda vlm, reply: (
        drop_ids(vlm, reply), reply["choices"][0]["message"].update(reasoning="I think")
    ),
    "no prompt ids": lambda vlm, reply: reply.pop("prompt_token_ids"),
    "ids as text": change_choice(token_ids=["a"]),
    "fewer counted": count_fewer,
    "one placeholder": collapse_images,
    "own pixels, one placeholder": collapse_images,
    "other template": change_prompt,
    "end stripped": strip_end,
    "end named": name_end,
    "other end": name_other_end,
    "sglang": speak_sglang,
    "filtered": change_choice(finish_reason="content_filter"),
    "aborted": change_choice(finish_reason="abort"),
    "tools": change_choice(finish_reason="tool_calls"),
    "no choice": lambda vlm, reply: reply.update(choices=[]),
    "placeholder": change_ids(lambda vlm, ids: [vlm.suppressed_ids[0], *ids[1:]]),
    "outside": change_ids(lambda vlm, ids: [10**6, *ids[1:]]),
    "goes on": change_ids(lambda vlm, ids: [*ids, ids[0], vlm.eos_ids[0]]),
    "context full": lambda vlm, reply: (
        change_ids(lambda vlm, ids: ids[:3])(vlm, reply), change_choice(finish_reason="length")(vlm, reply)
    ),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """`server` holds vlm, lock, fault (name, question, times) and what was asked."""

    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, found: Any, headers: dict[str, str] | None = None) -> None:
        data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        state = self.server
        pages = {
            "/v1/models": {"object": "list", "data": [{"id": name, "owned_by": "vllm"} for name in state.models]},
            "/version": {"version": "0.0.test"},
            "/stand_in": {"questions": state.questions, "settings": state.settings, "authorized": state.authorized},
        }
        self.send(200, pages[self.path]) if self.path in pages else self.send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        state = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/stand_in":
            state.reset(**body)
            return self.send(200, {})
        question = "".join(part.get("text", "") for part in body["messages"][0]["content"])
        with state.lock:
            state.questions.append(question)
            state.authorized = self.headers.get("Authorization") == f"Bearer {KEY}"
            state.settings = {key: value for key, value in body.items() if key != "messages"}
            fault = state.fault if state.times and state.only in question else ""
            state.times -= bool(fault)
        if self.misbehave(fault):
            return None
        with state.lock:
            reply = answer(state.vlm if fault.startswith("own pixels") else obey(state.vlm, body), body)
        if fault in FAULTS:
            FAULTS[fault](state.vlm, reply)
        return self.send(200, reply)

    def misbehave(self, fault: str) -> bool:
        """Return whether the fault took the place of a reply."""
        if fault == "slow":
            time.sleep(1.5)
        elif fault == "hung up":
            self.close_connection = True
            self.connection.close()
            return True
        elif fault.startswith("busy"):
            rest = fault.removeprefix("busy ") if " " in fault else "1"
            self.send(429, {"error": {"message": "too many requests", "code": 429}}, {"Retry-After": rest})
        elif fault == "bad gzip":
            self.send(200, gzip.compress(b"{}")[:8].decode("latin-1"), {"Content-Encoding": "gzip"})
        elif fault == "broken":
            self.send(500, {"error": {"message": "CUDA error", "code": 500}})
        elif fault == "overloaded":
            self.send(503, "try later")
        elif fault == "refused":
            self.send(400, {"object": "error", "message": "image\nis too large", "code": 400})
        elif fault == "unauthorized":
            self.send(401, {"error": f"wrong key {self.headers.get('Authorization')}"})
        elif fault == "unauthorized at length":
            self.send(401, {"error": f"{290 * '-'} {self.headers.get('Authorization')}"})
        elif fault == "not json":
            self.send(200, "<html>")
        else:
            return False
        return fault != "slow"


class StandIn(ThreadingHTTPServer):
    """The model and what the tests set and read."""

    daemon_threads = True

    def __init__(self, vlm: VLM) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.vlm, self.lock = vlm, threading.Lock()
        self.reset()

    def reset(self, fault: str = "", times: int = 10**6, only: str = "", models: list[str] | None = None) -> None:
        self.fault, self.times, self.only, self.models = fault, times, only, models or [self.vlm.name]
        self.questions: list[str] = []
        self.settings: dict[str, Any] = {}
        self.authorized = False


if __name__ == "__main__":
    torch.set_num_threads(1)
    stand_in = StandIn(load_vlm(Path(sys.argv[1])))
    print(f"http://127.0.0.1:{stand_in.server_port}", flush=True)
    stand_in.serve_forever()

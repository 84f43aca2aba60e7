"""Requests to a server: several at a time, repeated when it is worth it, never faster than allowed.

Why: a run of hours meets lost connections, busy servers and time-outs, and one of its requests must be as easy to
stop as to start. In: an address and JSON bodies. Out: futures of parsed replies. An event loop in a thread of its own
does the waiting, so that a caller works on, in a notebook too, and Ctrl-C ends every request at once. Never: the API
key in a message, a request repeated that the server has refused.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import httpx

from dontblink.generate import item_generator
from dontblink.server_contract import ContractError, ServerError

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 600.0  # a server that wants a longer rest ends the run: it goes on where it stopped
OUR_FAULT = (401, 403, 404)  # would meet every item: the key, the address or the model's name


class Connection:
    """A server, while the `with` block lasts; see `generate_on_server` for the settings."""

    def __init__(self, url: str, timeout_s: float, retries: int, requests_per_minute: float) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ServerError(f"server.url: {error}; expected http://host:port") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ServerError(f"server.url: found {url!r}, expected http://host:port")
        self.name = str(address.copy_with(userinfo=b"")).rstrip("/").removesuffix("/v1")
        self.root = url.rstrip("/").removesuffix("/v1")
        self.timeout_s, self.retries = timeout_s, retries
        self.spacing_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self.next_turn_s = 0.0
        self.jitter = item_generator(0, "jitter")  # spreads repeated requests; decides nothing else
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key.isascii() or not self.key.isprintable():
            raise ServerError("OPENAI_API_KEY: holds letters that no header can carry; set it anew")

    def __enter__(self) -> Connection:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.client = httpx.AsyncClient(headers=headers, timeout=None, limits=httpx.Limits())
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._start(self._stop()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.aclose()

    def ask(self, body: dict[str, Any], item_id: str) -> Future[Any]:
        """Post a chat completion; the future gives the parsed reply, or raises ContractError or ServerError."""
        return self._start(self._request("POST", "/v1/chat/completions", f"item {item_id}", body))

    def look(self, page: str) -> dict[str, Any]:
        """Return a page of the server; raise ServerError where it has none."""
        try:
            found = self._start(self._request("GET", page, page)).result()
        except ContractError as error:
            raise ServerError(str(error)) from error
        if not isinstance(found, dict):
            raise ServerError(f"{self.name}{page}: not a JSON object; give the address of an OpenAI-compatible server")
        return found

    async def _request(self, method: str, page: str, where: str, body: dict[str, Any] | None = None) -> Any:
        status, problem, pause = 0, "", 0.0
        for attempt in range(self.retries + 1):
            await asyncio.sleep(pause)
            await self._wait_turn()
            pause = min(FIRST_BACKOFF_S * 2**attempt, LONGEST_BACKOFF_S) * (0.5 + self.jitter.random())
            try:
                async with asyncio.timeout(self.timeout_s):
                    reply = await self.client.request(method, self.root + page, json=body)
            except TimeoutError:
                remedy = "raise server.timeout_s or lower server.concurrent_requests"
                status, problem = 0, f"no answer in {self.timeout_s:g} s; {remedy}"
                continue
            except httpx.DecodingError as error:
                found = self._show(f"{error}")
                status, problem = 0, f"a damaged reply ({found}); look for a proxy between here and the server"
                continue
            except httpx.RequestError as error:
                found = self._show(f"{type(error).__name__} {error}")
                status, problem = 0, f"no connection ({found}); start the server or correct its address"
                continue
            status, problem = reply.status_code, self._describe(reply)
            if status == 200:
                try:
                    return reply.json()
                except (ValueError, RecursionError) as error:
                    raise ContractError(f"{where}: the reply is not JSON; use an OpenAI-compatible server") from error
            if status in OUR_FAULT:
                raise ServerError(f"{self.name}: {where}: {problem}; correct OPENAI_API_KEY or server.url")
            if status != 429 and status < 500:
                raise ContractError(f"{where}: refused by the server: {problem}")
            pause = max(pause, read_retry_after(reply))
            if pause > LONGEST_RETRY_AFTER_S:
                raise ServerError(
                    f"{self.name}: {where}: {problem}; it asks for a rest of {pause:g} s (Retry-After), at most "
                    f"{LONGEST_RETRY_AFTER_S:g} s are waited for; what is finished is kept, run again after it"
                )
        tried = f"{problem} ({self.retries + 1} attempts)"
        if status == 500 and body and await self._answers():
            raise ContractError(f"{where}: the server fails on this item alone: {tried}")
        raise ServerError(f"{self.name}: {where}: {tried}; what is finished is kept, run again to go on")

    async def _answers(self) -> bool:
        """Return whether the server still answers anything."""
        try:
            return (await self.client.get(f"{self.root}/v1/models", timeout=self.timeout_s)).is_success
        except httpx.RequestError:
            return False

    async def _wait_turn(self) -> None:
        now = time.monotonic()
        turn = max(now, self.next_turn_s)
        self.next_turn_s = turn + self.spacing_s
        await asyncio.sleep(turn - now)

    def _describe(self, reply: httpx.Response) -> str:
        """Return a status and the server's own words, in one line and without the key."""
        try:
            found = reply.json()
            found = found.get("error", found)
            words = found if isinstance(found, str) else found.get("message", found)
        except (ValueError, AttributeError, RecursionError):
            words = reply.text
        return f"status {reply.status_code}: {self._show(str(words))}"

    def _show(self, words: str) -> str:
        """Return a foreign text as at most 300 letters of one line, the key replaced before anything is cut."""
        line = " ".join(words.split())
        return (line.replace(self.key, "...") if self.key else line)[:300]


def read_retry_after(reply: httpx.Response) -> float:
    """Return the seconds that a server asks to be left alone (a number or a date); 0 where it does not say."""
    stated = reply.headers.get("retry-after", "0")
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0

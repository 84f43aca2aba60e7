"""Claims about server: what a real server process answers is a response, or is named and kept out."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import stand_in_server
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_items import make_item, png
from stand_in_server import KEY

from dontblink import params, paths, store
from dontblink.errors import NamedError
from dontblink.extraction.run import Extraction
from dontblink.models import fingerprint, server
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.response import Response, pack_responses, unpack_responses
from dontblink.models.samples import draw_samples
from dontblink.models.server import (
    ContractError,
    build_request,
    check_prompt,
    close_ids,
    generate_on_server,
    read_reply,
    read_retry_after,
    state_pixels,
)
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Item, open_image, split_question
from dontblink_testbed import benchmark
from dontblink_testbed.questions import Difficulty

CHECKPOINTS = {"qwen3_vl": "qwen3vl-tiny-s", "glm4v": "glm4v-tiny"}
FOLDERS = {family: paths.ROOT / "models" / "testbed" / name for family, name in CHECKPOINTS.items()}
ITEMS = list(benchmark.load_items("visual_reference", "test", 4, 1, Difficulty((2, 3), (0.0, 0.2))))
N_NEW = 100
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")


@functools.cache
def whole_vlm(family: str) -> VLM:
    return load_vlm(FOLDERS[family])


def weightless(family: str) -> VLM:
    """What a machine without the weights has."""
    return dataclasses.replace(whole_vlm(family), model=None)


@functools.cache
def local_responses(family: str) -> dict[str, Response]:
    found = generate_responses(whole_vlm(family), ITEMS, Sampling(N_NEW), batch_size=4, progress=False)
    return {response.item_id: response for response in found}


def prompt_ids(family: str, item: Item) -> list[int]:
    return whole_vlm(family).encode(item).ids.tolist()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Start one server process per family, and end them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = {
        family: subprocess.Popen(
            [sys.executable, stand_in_server.__file__, str(folder)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for family, folder in FOLDERS.items()
    }  # fmt: skip
    try:
        yield {family: process.stdout.readline().strip() for family, process in processes.items() if process.stdout}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def url(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of the Qwen server, with every fault off."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(server, "FIRST_BACKOFF_S", 0.01)
    spoil(servers["qwen3_vl"])
    return servers["qwen3_vl"]


def spoil(url: str, fault: str = "", **options: Any) -> None:
    httpx.post(f"{url}/stand_in", json={"fault": fault, **options}).raise_for_status()


def asked(url: str) -> dict[str, Any]:
    found = httpx.get(f"{url}/stand_in").json()
    found["questions"] = [q for q in found["questions"] if not q.startswith("look")]  # without the probe
    return found


def ask(url: str, items: list[Item] = ITEMS, family: str = "qwen3_vl", **options: Any) -> dict[str, Response]:
    fields = {"max_new_tokens": N_NEW} | {key: options.pop(key) for key in SAMPLING if key in options}
    settings = {
        "url": url, "unverified": True, "retries": 2, "timeout_s": 60.0, "concurrent_requests": 3, "progress": False,
    } | options  # fmt: skip
    found = generate_on_server(weightless(family), items, Sampling(**fields), **settings)
    return {response.item_id: response for response in found}


def ask_spoilt(url: str, fault: str, **options: Any) -> tuple[dict[str, Response], dict[str, str]]:
    """Return responses and quarantined reasons where the fault meets the first item alone."""
    spoil(url, fault, only=ITEMS[0].question)
    reasons: dict[str, str] = {}
    found = ask(url, ITEMS[:2], quarantine=lambda name, reason: reasons.update({name: reason}), **options)
    assert all("\n" not in reason for reason in reasons.values())
    return found, reasons


@pytest.mark.parametrize("family", FOLDERS)
def test_greedy_responses_equal_the_local_engines_token_for_token(servers: dict[str, str], family: str) -> None:
    spoil(servers[family])
    found = ask(servers[family], family=family)
    for name, short in ask(servers[family], ITEMS[:2], family, max_new_tokens=5).items():
        assert (short.response_ids, short.finish_reason) == (found[name].response_ids[:5], "length")
    assert {r.finish_reason for r in found.values()} == {"stop"}
    assert {r.engine for r in found.values()} == {"vllm 0.0.test, unverified"}
    assert {key: dataclasses.replace(r, engine="local") for key, r in found.items()} == local_responses(family)


def test_pictures_reach_the_server_turned_lossless_and_where_the_question_has_them(url: str) -> None:
    rng = np.random.default_rng(0)
    photo = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)).save(photo, "JPEG", exif=exif)
    images = (photo.getvalue(), png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    item = dataclasses.replace(ITEMS[0], id="two", images=images, question="look <image 2> then <image 1> there")
    request = build_request(weightless("qwen3_vl"), item, Sampling(3))
    content = request["messages"][0]["content"]
    assert [part.get("text", "picture") for part in content] == ["look ", "picture", " then ", "picture", " there"]
    for part, place in zip(content[1::2], (1, 0), strict=True):
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        shown = open_image(images[place])
        with Image.open(io.BytesIO(data)) as sent:
            assert sent.format == "PNG" and sent.size == shown.size and not sent.getexif()
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(shown))
    assert open_image(images[0]).size == (40, 64)
    plain = dataclasses.replace(item, question="there ?")
    assert split_question(plain) == [0, 1, "there ?"]
    found = ask(url, [plain], max_new_tokens=3)["two"]
    (expected,) = generate_responses(whole_vlm("qwen3_vl"), [plain], Sampling(3), batch_size=1, progress=False)
    assert dataclasses.replace(found, engine="local") == expected


def test_every_setting_is_stated_and_seeds_belong_to_items(url: str) -> None:
    vlm = dataclasses.replace(weightless("qwen3_vl"), template_options={"enable_thinking": False})
    list(generate_on_server(vlm, ITEMS[:1], Sampling(2, 0.7, 0.9, 20, 3), url=url, unverified=True, progress=False))
    settings = asked(url)["settings"]
    stated = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1, "stream": False, "max_completion_tokens": 2,
        "stop": [], "stop_token_ids": [2], "ignore_eos": False, "skip_special_tokens": False,
        "include_stop_str_in_output": False, "return_token_ids": True, "return_prompt_token_ids": True,
        "logit_bias": {"5": -100.0, "6": -100.0}, "model": "qwen3vl-tiny-s",
        "mm_processor_kwargs": {"size": {"shortest_edge": 9216, "longest_edge": 36864}},
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert {key: settings.get(key) for key in stated} == stated
    seeds = []
    for item, seed in ((ITEMS[0], 3), (ITEMS[1], 3), (ITEMS[0], 4)):
        ask(url, [item], max_new_tokens=1, temperature=0.7, seed=seed)
        seeds.append(asked(url)["settings"]["seed"])
    assert seeds[0] == settings["seed"] and len(set(seeds)) == 3
    ask(url, ITEMS[:1], max_new_tokens=1, top_p=0.9, top_k=20)
    greedy = asked(url)["settings"]
    assert (greedy["temperature"], greedy["top_p"], greedy["top_k"]) == (0.0, 1.0, -1)


REFUSALS = {
    "text only": "no token_ids in the reply, and its text may be cut .* or set extraction.retokenised: leave_out",
    "no prompt ids": "no prompt_token_ids in the reply; use a vLLM or SGLang that knows return_token_ids",
    "ids as text": "token_ids is not a list of whole numbers",
    "fewer counted": r"\d+ token_ids, usage.completion_tokens -?\d+; expected as many: ids are lost",
    "other template": r"prompt position 2 is id \d+ '.+' on the server and id \d+ '.+' here \(prompts of \d+ and \d+",
    "other end": r"stopped by 'done', expected one of the end-of-sequence ids \[2\]; serve without stop texts",
    "filtered": "finish reason 'content_filter'; expected stop or length",
    "aborted": "finish reason 'abort'; expected stop or length",
    "tools": "finish reason 'tool_calls'; expected stop or length",
    "no choice": "a reply without its one choice",
    "placeholder": "response token 0 has id 5, outside the vocabulary or a placeholder",
    "outside": "response token 0 has id 1000000, outside the vocabulary or a placeholder",
    "goes on": r"token \d+ is the end-of-sequence id 2 and 2 more follow; serve with this checkpoint's stop ids",
    "context full": "3 token_ids without an end, max_new_tokens 100; raise the context length of the server",
    "not json": "the reply is not JSON; use an OpenAI-compatible server",
    "refused": "refused by the server: status 400: image is too large",
    "broken": r"the server fails on this item alone: status 500: CUDA error \(3 attempts\)",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_reply_that_breaks_the_contract_quarantines_its_item_and_no_other(url: str, fault: str) -> None:
    found, reasons = ask_spoilt(url, fault)
    assert list(found) == [ITEMS[1].id] and list(reasons) == [ITEMS[0].id]
    assert pytest.RaisesExc(ContractError, match=REFUSALS[fault]).matches(ContractError(reasons[ITEMS[0].id]))
    assert f"item {ITEMS[0].id}: " in reasons[ITEMS[0].id]
    assert len(asked(url)["questions"]) == (4 if fault == "broken" else 2)


@pytest.mark.parametrize("fault", ["text only", "no prompt ids", "other template", "fewer counted", "refused"])
def test_a_server_that_breaks_the_contract_ends_the_run_before_any_item(url: str, fault: str) -> None:
    spoil(url, fault)
    with pytest.raises(NamedError, match="item probe: " + REFUSALS[fault]):
        ask(url, quarantine=lambda name, reason: pytest.fail(f"{name} was quarantined"))
    assert asked(url)["questions"] == []


def test_without_a_quarantine_the_reason_is_raised(url: str) -> None:
    spoil(url, "filtered", only=ITEMS[1].question)
    with pytest.raises(ContractError, match=f"item {ITEMS[1].id}: finish reason 'content_filter'"):
        ask(url)


@pytest.mark.parametrize("fault", ["one placeholder", "end stripped", "end named", "sglang"])
def test_other_spellings_of_the_same_response_are_accepted(url: str, fault: str) -> None:
    spoil(url, fault)
    expected = {item.id: local_responses("qwen3_vl")[item.id] for item in ITEMS[:2]}
    assert {key: dataclasses.replace(r, engine="local") for key, r in ask(url, ITEMS[:2]).items()} == expected


@given(
    grids=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    place=st.floats(0, 1, exclude_max=True),
)
def test_one_placeholder_an_image_is_enough_and_one_other_id_is_too_much(
    grids: list[tuple[int, int]], place: float
) -> None:
    vlm = weightless("qwen3_vl")
    short = [1, *[i for _ in grids for i in (3, 5, 4, 20)], 21]
    long = [1, *[i for rows, columns in grids for i in (3, *[5] * (rows * columns), 4, 20)], 21]
    grid_thw = np.array([(1, 2 * rows, 2 * columns) for rows, columns in grids])
    prompt = Prompt("a", np.array(long), {"image_grid_thw": grid_thw}, ((9, 9),) * len(grids), ())
    check_prompt(vlm, prompt, short, len(long))
    check_prompt(vlm, prompt, long, None)
    for found in (short, long):
        k = int(place * len(found))
        for wrong in ([*found[:k], 22, *found[k + 1 :]], found[:k], [*found, 22]):
            with pytest.raises(ContractError, match=r"item a: (prompt position|\d+ image tokens)"):
                check_prompt(vlm, prompt, wrong, len(long))
    k = int(place * len(long))
    expected = f"position {k} is id 22 " if long[k] != 5 else f"{long.count(5) - 1} image tokens on the server and"
    with pytest.raises(ContractError, match=expected):
        check_prompt(vlm, prompt, [*long[:k], 22, *long[k + 1 :]], len(long))
    for counted in (None, len(short), len(long) + 1):
        if len(short) < len(long):
            with pytest.raises(ContractError, match=f"usage.prompt_tokens {counted}, expected {len(long)}; .* budget"):
                check_prompt(vlm, prompt, short, counted)


def test_an_end_that_nothing_names_is_refused_where_there_are_several() -> None:
    vlm = dataclasses.replace(weightless("qwen3_vl"), eos_ids=(0, 2))
    assert close_ids(vlm, "item a", [20], "stop", {"stop_reason": 0}) == [20, 0]
    assert close_ids(vlm, "item a", [20], "length", {}) == [20]
    for named in (None, 9, "2"):
        with pytest.raises(ContractError, match=f"item a: stopped by {named!r}, expected one of .* \\[0, 2\\]"):
            close_ids(vlm, "item a", [20], "stop", {"stop_reason": named})


def test_nothing_but_an_end_is_an_empty_response() -> None:
    vlm = weightless("glm4v")
    prompt = vlm.encode(ITEMS[0])
    choice = {"finish_reason": "stop", "stop_reason": None, "token_ids": []}
    reply = {"choices": [choice], "prompt_token_ids": prompt.ids.tolist(), "usage": {"completion_tokens": 1}}
    response = read_reply(vlm, prompt, reply, max_new_tokens=4, engine="e")
    assert (response.response_ids, response.finish_reason) == (vlm.eos_ids, "empty")


def test_text_is_tokenised_only_when_asked_for_and_then_marked(url: str) -> None:
    found, reasons = ask_spoilt(url, "text only", retokenise=True)
    assert reasons == {} and [found[item.id].retokenised for item in ITEMS[:2]] == [True, False]
    expected = local_responses("qwen3_vl")[ITEMS[0].id]
    assert found[ITEMS[0].id].response_ids[-1] == 2 and found[ITEMS[0].id].prompt_ids == expected.prompt_ids
    assert whole_vlm("qwen3_vl").segment(found[ITEMS[0].id].response_ids).closed
    _, reasons = ask_spoilt(url, "reasoning apart", retokenise=True)
    assert "the reasoning is cut out of the text" in reasons[ITEMS[0].id]


def test_tokenised_text_ends_with_the_tokenizers_end_where_it_stopped() -> None:
    vlm = dataclasses.replace(weightless("qwen3_vl"), eos_ids=(0, 2))
    prompt = vlm.encode(ITEMS[0])
    for reason, text, ids in (
        ("stop", "yes", (2,)), ("stop", "yes <|im_end|>", (2,)), ("stop", "yes <|endoftext|>", (0,)),
        ("length", "yes", ()),
    ):  # fmt: skip
        reply = {"choices": [{"finish_reason": reason, "message": {"content": text}}]}
        response = read_reply(vlm, prompt, reply, max_new_tokens=9, engine="e", retokenise=True)
        assert response.response_ids == (vlm.tokenizer.convert_tokens_to_ids("yes"), *ids) and response.retokenised


@pytest.mark.parametrize("fault", ["hung up", "busy", "broken", "overloaded", "slow"])
def test_passing_faults_are_retried_until_they_are_over(url: str, fault: str) -> None:
    spoil(url, fault, times=1, only=ITEMS[0].question)
    started = time.monotonic()
    found = ask(url, ITEMS[:1], timeout_s=1.2 if fault == "slow" else 60.0)
    assert found[ITEMS[0].id].response_ids == local_responses("qwen3_vl")[ITEMS[0].id].response_ids
    assert len(asked(url)["questions"]) == 2
    if fault == "busy":
        assert time.monotonic() - started >= 1.0  # what Retry-After said


LASTING = {
    "hung up": "no connection .RemoteProtocolError .*; start the server or correct its address",
    "overloaded": "status 503: try later",
    "slow": "no answer in 0.8 s; raise server.timeout_s or lower server.concurrent_requests",
    "bad gzip": "a damaged reply .*; look for a proxy between here and the server .2 attempts.",
    "busy inf": "status 429: too many .* it asks for a rest of inf s .Retry-After., at most 600 s are waited for",
    "busy 86400000": "it asks for a rest of 8.64e.07 s",
    "unauthorized": "status 401: wrong key .*; correct OPENAI_API_KEY",
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_lasting_fault_of_the_server_ends_the_run_and_keeps_what_is_finished(url: str, fault: str) -> None:
    spoil(url, fault, only=ITEMS[1].question)
    found = []
    timeout = 0.8 if fault == "slow" else 60.0
    options = {"timeout_s": timeout, "concurrent_requests": 1, "unverified": True, "retries": 1}
    with pytest.raises(NamedError, match=LASTING[fault]) as error:
        for response in generate_on_server(
            weightless("qwen3_vl"), ITEMS, Sampling(20), url=url, progress=False, **options,
            quarantine=lambda name, reason: pytest.fail(f"{name} was quarantined"),
        ):  # fmt: skip
            found.append(response.item_id)
    assert "\n" not in str(error.value)
    n_asked = 2 if fault.startswith(("unauthorized", "busy")) else 3
    assert found == [ITEMS[0].id] and len(asked(url)["questions"]) == n_asked


def test_the_key_is_sent_and_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(url, ITEMS[:1])
    assert asked(url)["authorized"]
    spoil(url, "unauthorized")
    with pytest.raises(NamedError, match="status 401: wrong key Bearer [.]{3}") as error:
        ask(url)
    assert KEY not in str(error.value)
    spoil(url, "unauthorized at length")
    with pytest.raises(NamedError, match="status 401: -{290} Bearer [.]{2}; correct") as error:
        ask(url)
    assert KEY[:4] not in str(error.value)
    for key in (f"{KEY}\nX: 1", "sk-\u00e9"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(NamedError, match="^OPENAI_API_KEY: holds letters that no header can carry; set it anew$"):
            ask(url)


def test_requests_keep_to_their_rate(url: str) -> None:
    started = time.monotonic()
    ask(url, ITEMS[:2], requests_per_minute=240, max_new_tokens=1)
    assert time.monotonic() - started >= 1.25  # two pages, two probes, two items; a quarter of a second between


def test_retry_after_is_a_number_or_a_date() -> None:
    def wait_s(**headers: str) -> float:
        return read_retry_after(httpx.Response(429, headers=headers))

    assert wait_s() == 0 and wait_s(**{"Retry-After": "7"}) == 7 and wait_s(**{"Retry-After": "soon"}) == 0
    assert wait_s(**{"Retry-After": "nan"}) == 0 and wait_s(**{"Retry-After": "-1"}) == 0
    assert 25 < wait_s(**{"Retry-After": formatdate(time.time() + 30, usegmt=True)}) <= 30


@pytest.mark.parametrize("models", [["a", "b"], ["qwen3vl-tiny-m"]])
def test_a_server_that_does_not_list_the_model_by_name_is_refused_even_with_a_single_one(
    url: str, models: list[str]
) -> None:
    spoil(url, models=models)
    listed = ", ".join(map(repr, models))
    with pytest.raises(NamedError, match=f"lists {listed}, expected 'qwen3vl-tiny-s'; .* --served-model-name qwen3vl"):
        ask(url)
    assert not httpx.get(f"{url}/stand_in").json()["questions"]
    spoil(url, models=[*models, "qwen3vl-tiny-s"])
    ask(url, ITEMS[:1], max_new_tokens=1)
    assert asked(url)["settings"]["model"] == "qwen3vl-tiny-s"


@pytest.mark.parametrize("family", FOLDERS)
def test_the_pixel_budget_of_the_study_reaches_the_server_and_the_prompts_agree(
    servers: dict[str, str], family: str
) -> None:
    spoil(servers[family])
    vlm = load_vlm(FOLDERS[family], max_image_tokens=20, weights=False)
    found = list(generate_on_server(vlm, ITEMS[:2], Sampling(2), url=servers[family], unverified=True))
    assert len(found) == 2
    for item, response in zip(ITEMS[:2], sorted(found, key=lambda r: r.item_id), strict=True):
        assert response.prompt_ids == tuple(vlm.encode(item).ids)
        counts = [ids.count(vlm.image_token_id) for ids in (response.prompt_ids, prompt_ids(family, item))]
        assert counts[0] <= 20 < counts[1]


@pytest.mark.parametrize("family", FOLDERS)
@pytest.mark.parametrize("size", [(32, 32), (300, 200), (640, 90)])
def test_the_checkpoints_own_processor_told_the_stated_pixels_cuts_the_same_grid(
    family: str, size: tuple[int, int]
) -> None:
    own, ours = load_vlm(FOLDERS[family], weights=False), load_vlm(FOLDERS[family], max_image_tokens=30, weights=False)
    item = make_item("a", size)
    pictures = [open_image(image) for image in item.images]
    told = own.processor.image_processor(pictures, return_tensors="np", **state_pixels(ours))
    np.testing.assert_array_equal(told["image_grid_thw"], ours.encode(item).inputs["image_grid_thw"])


@pytest.mark.parametrize("fault", ["own pixels", "own pixels, one placeholder"])
def test_a_server_with_another_pixel_budget_ends_the_run_before_any_item(url: str, fault: str) -> None:
    spoil(url, fault)
    vlm = load_vlm(FOLDERS["qwen3_vl"], weights=False)
    images = vlm.processor.image_processor
    images.size = type(images.size)(shortest_edge=images.size["shortest_edge"], longest_edge=100 * 16 * 16)  # of 144
    told = 'item probe of a large picture: .* --mm-processor-kwargs \'{"size": .*"longest_edge": 25600}}'
    with pytest.raises(NamedError, match=told) as error:
        list(generate_on_server(
            vlm, ITEMS, Sampling(2), url=url, unverified=True, progress=False,
            quarantine=lambda name, reason: pytest.fail(f"{name} was quarantined"),
        ))  # fmt: skip
    assert "\n" not in str(error.value) and asked(url)["questions"] == []


@pytest.mark.parametrize("verification", ["required", "skip"])
def test_a_study_with_a_server_asks_it_with_the_studys_settings(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verification: str
) -> None:
    parameters = params.load(paths.params_file("testbed"))[1]
    section = parameters["server"] | {"url": url, "fingerprints_folder": str(tmp_path), "verification": verification}
    monkeypatch.setattr(params, "read_section", lambda profile, name: dict(section))
    settings = parameters["extraction"] | {"engine": "server", "max_image_tokens": 20, "max_new_tokens": 2}
    study: Any = SimpleNamespace(profile="testbed", settings=settings, checkpoint=lambda model: FOLDERS["qwen3_vl"])
    vlm = Extraction.load_model(study, "qwen3vl-tiny-s", weights=False)

    def refuse(name: str, reason: str) -> None:
        pytest.fail(f"{name} was quarantined: {reason}")

    if verification == "required":
        with pytest.raises(NamedError, match=f"{tmp_path}/qwen3vl-tiny-s.json: not a fingerprint"):
            Extraction.generate(study, vlm, ITEMS[:2], Sampling(2), refuse)
        state_fingerprint(FOLDERS["qwen3_vl"], tmp_path / "qwen3vl-tiny-s.json")
    found = Extraction.generate(study, vlm, ITEMS[:2], Sampling(2), refuse)
    assert {r.item_id for r in found} == {item.id for item in ITEMS[:2]}
    assert {r.engine for r in found} == {"vllm 0.0.test" + (", unverified" if verification == "skip" else "")}
    stated = asked(url)["settings"]
    assert stated["mm_processor_kwargs"]["size"]["longest_edge"] == 20 * 16 * 16
    assert stated["max_completion_tokens"] == 2
    engine = functools.partial(Extraction.generate, study)
    samples, lost = draw_samples(vlm, ITEMS[:2], 3, 2, 5, engine)
    assert not lost and [(s.item_id, s.sample_index) for s in samples] == [(i.id, k) for i in ITEMS[:2] for k in range(3)]
    assert asked(url)["settings"]["temperature"] == 1.0 and {s.engine for s in samples} == {r.engine for r in found}


def test_an_address_without_a_server_is_one_line() -> None:
    for address, reason in (
        ("http://127.0.0.1:9", "no connection .ConnectError"),
        ("localhost:8000", "expected http://host:port"),
        ("http://host:port", "expected http://host:port"),
    ):
        with pytest.raises(NamedError, match=reason):
            ask(address, retries=0)
    with pytest.raises(NamedError) as error:
        ask("http://me:secret@127.0.0.1:9/v1", retries=0)
    assert str(error.value).startswith("http://127.0.0.1:9: /v1/models: no connection")


def state_fingerprint(folder: Path, target: Path) -> Path:
    """Write what the command prints on a serving machine that has nothing but Python."""
    command = [sys.executable, "-S", "-m", "dontblink.models.fingerprint", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(fingerprint.__file__).parents[2])}
    target.write_text(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    return target


def test_the_server_must_state_our_checkpoint(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = FOLDERS["qwen3_vl"]
    stated = state_fingerprint(ours, tmp_path / "stated.json")
    found = ask(url, ITEMS[:1], unverified=False, checkpoint=ours, server_fingerprint=stated)
    assert {r.engine for r in found.values()} == {"vllm 0.0.test"}
    monkeypatch.setattr(sys, "argv", ["fingerprint", str(tmp_path)])
    with pytest.raises(SystemExit, match="fingerprint: .*: no config.json here"):
        fingerprint.main()
    with pytest.raises(NamedError, match="nothing says .* this checkpoint; save .* or set server.verification: skip"):
        ask(url, unverified=False)
    hashes = json.loads(stated.read_text())
    assert hashes == fingerprint.fingerprint_checkpoint(ours)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} < set(hashes)
    assert "README.md" not in hashes and "training.json" not in hashes
    for name, value in (("model.safetensors", "0" * 64), ("preprocessor_config.json", None)):
        changed = {key: old for key, old in {**hashes, name: value}.items() if old}
        stated.write_text(json.dumps(changed))
        with pytest.raises(NamedError, match=f"stated.json: {name} differs: .* on the server; serve the same"):
            ask(url, unverified=True, checkpoint=ours, server_fingerprint=stated)  # stated, so it is compared
    for content in ("", "[]", "{}", '{"config.json": "1"}'):
        stated.write_text(content)
        with pytest.raises(NamedError, match=r"stated.json: .*; save what `python -m dontblink.*fingerprint FOLDER`"):
            ask(url, unverified=False, checkpoint=ours, server_fingerprint=stated)
    (tmp_path / "config.json").touch()
    with pytest.raises(NamedError, match="no [*].safetensors here; give the folder that the model is loaded from"):
        ask(url, unverified=False, checkpoint=tmp_path, server_fingerprint=ours)


def finish_missing(url: str, folder: Path) -> None:
    """Ask for what has no file yet, one response a file."""
    missing = [item for item in ITEMS if not (folder / f"{item.id}.parquet").exists()]
    for response in generate_on_server(
        weightless("qwen3_vl"), missing, Sampling(N_NEW), url=url, unverified=True, concurrent_requests=1,
        progress=False,
    ):  # fmt: skip
        store.write_table(folder / f"{response.item_id}.parquet", pack_responses([response]), {})


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_client_asks_again_only_for_what_is_missing(url: str, tmp_path: Path) -> None:
    client = multiprocessing.get_context("fork").Process(target=finish_missing, args=(url, tmp_path))
    client.start()
    assert client.pid
    wait_until(lambda: len(list(tmp_path.glob("*.parquet"))) >= 2)
    os.kill(client.pid, signal.SIGKILL)
    client.join()
    n_done = len(list(tmp_path.glob("*.parquet")))
    assert client.exitcode == -signal.SIGKILL and 2 <= n_done < len(ITEMS)
    spoil(url)
    finish_missing(url, tmp_path)
    assert asked(url)["questions"] == [item.question for item in ITEMS[n_done:]]
    whole = pa.concat_tables(store.read_table(tmp_path / f"{item.id}.parquet") for item in ITEMS)
    found = {r.item_id: dataclasses.replace(r, engine="local") for r in unpack_responses(whole)}
    assert found == local_responses("qwen3_vl")


def test_closing_the_iterator_ends_the_requests_that_wait(url: str) -> None:
    spoil(url, "slow", only=ITEMS[1].question)
    responses = generate_on_server(
        weightless("qwen3_vl"), ITEMS[:2], Sampling(N_NEW), url=url, unverified=True, progress=False
    )
    assert next(responses).item_id == ITEMS[0].id
    started = time.monotonic()
    responses.close()
    assert time.monotonic() - started < 0.7 and len(asked(url)["questions"]) == 2

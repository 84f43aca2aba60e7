"""The site opens from a file, without a network, on a phone, with a keyboard and a screen reader; nothing runs in it.

The first part reads what pandoc makes of a notebook, the second the files of a site, the third opens them in a real
Chromium, where there is one (see browser.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import bad_input
import pandas as pd
import pytest
from browser import open_browser, read_axe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_site import DESCRIBED, HOSTILE, PROFILE, STEM, build, make_notebook, write_notebook

from dontblink import params, paths
from dontblink.errors import NamedError
from dontblink.publish import pages

PAGES = ("index.html", f"{STEM}.html", "viewer.html")
TEXTS = [HOSTILE, "<img src=x onerror=hacked=1>", "</code></pre><b>", "\"' onclick=\"x", "&lt;b&gt;", "<p onclick=x>"]
TEXTS += [*bad_input.SHORT, "`<b>`{=html}", "```{=html}\n<script>hacked=1</script>\n```"]


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def render(*cells: Any) -> str:
    metadata = {"language_info": {"name": "python", "version": "3.11.99"}, "papermill": {"duration": 41.6}}
    notebook = new_notebook(cells=[new_markdown_cell("# 02 Collapse: does it fall?"), *cells], metadata=metadata)
    return pages.render_notebook(STEM, notebook).body


def show(**data: str) -> Any:
    """Return a cell with one output; `text_html` stands for text/html."""
    output = new_output("display_data", {name.replace("_", "/"): value for name, value in data.items()})
    return new_code_cell("x", outputs=[output])


def check_harmless(html: str, allowed: tuple[str, ...] = ()) -> None:
    """Fail for anything that a browser would run or fetch."""
    for tag, attributes in Elements(html).found:
        assert tag not in {"script", "b", "iframe", "style", "base"} - {*allowed}, (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), attributes
        address = attributes.get("href", attributes.get("src", ""))
        assert re.match(r"(data:image/png|https://|#|[\w./-]*(#|$)|data:,)", address), attributes


def test_the_code_of_the_estimator_is_open_and_other_code_folded() -> None:
    titles = ("3 Data", "4 The estimator, in the open", "5 Intervals")
    html = render(*(cell for title in titles for cell in (new_markdown_cell(f"## {title}"), new_code_cell("x = 1"))))
    folds = [attributes for tag, attributes in Elements(html).found if tag == "details"]
    assert ["open" in attributes for attributes in folds] == [False, True, False]


def test_hostile_text_comes_through_no_door(tmp_path: Path) -> None:
    cells = []
    for text in TEXTS:
        frame = pd.DataFrame({text: [text]}, index=pd.Index([text], name=text))
        cells += [
            new_markdown_cell(text), new_markdown_cell(f"## {text}\n\n| {text} |\n|---|\n| {text} |"),
            new_code_cell(f"x = 1  # {text}", outputs=[new_output("stream", name="stdout", text=text)]),
            show(text_html=frame.to_html()), show(text_html=frame.to_html(escape=False)), show(text_plain=text),
            show(text_html=f"<table {text}><caption>{text}</caption><tr {text}><td {text}>{text}</table>"),
            show(text_html=f"<script>hacked=1</script>{text}", text_plain=text), show(image_svg=text),
            new_code_cell(f"# Parameters\ntext = {text!r}", metadata={"tags": ["injected-parameters"]}),
        ]  # fmt: skip
    html = render(*cells)
    check_harmless(html)
    assert html.count("&lt;/script&gt;") >= 5, "it is shown as the text that it is"


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.text(alphabet="<>\"'&`$\\{}_^ab \n#|-[]()!:/=", max_size=40), min_size=40, max_size=60))
def test_no_markdown_makes_a_tag_that_pandoc_does_not_write(texts: list[str]) -> None:
    check_harmless(render(*map(new_markdown_cell, texts)))


def test_a_link_cannot_run_a_script_and_a_picture_cannot_ask_a_network() -> None:
    html = render(new_markdown_cell("[a](javascript:hacked=1) [b](https://arxiv.org) [c](data:x) ![d <b>](https://h/x.png)"))
    assert [a["href"] for t, a in Elements(html).found if t == "a"] == ["https://arxiv.org"]
    assert "<img" not in html and "d &lt;b&gt;" in html.replace("\n", " ")
    assert "<img" not in render(show(text_html="<img src='/etc/hostname'><table><td><img src='/etc/hostname'></table>"))


def test_a_formula_is_mathml_with_its_tex_and_a_price_stays_text() -> None:
    html = render(new_markdown_cell("with $m_i$ and\n\n$$\\frac{a}{b} = \\tfrac{1}{2} \\text{ share}$$"))
    assert html.count("<math") == 2 and html.count('display="block"') == 1
    assert "\\frac{a}{b} = \\tfrac{1}{2} \\text{ share}</annotation>" in html
    assert "<math" not in render(new_markdown_cell("it costs $5 and $6, or a $ alone"))


def test_headings_have_ids_and_a_table_without_heads_in_markdown_has_none() -> None:
    html = render(new_markdown_cell("## 4 Load and check\n\n| | |\n|---|---|\n| inputs | tables |\n"))
    assert '<h2 id="4-load-and-check">4 Load and check</h2>' in html
    assert "<thead" not in html and "<td>inputs</td>" in html


def test_a_default_index_is_left_out_and_a_named_one_kept() -> None:
    frame = pd.DataFrame({"model": ["a", "b"], "n": [1, 2]}, index=[7, 9])
    assert ">7<" not in render(show(text_html=frame.to_html()))
    assert ">7<" in render(show(text_html=frame.rename_axis("row").to_html()))
    empty = render(show(text_html=frame.iloc[:0].to_html()))
    assert "no rows" in empty and "<th></th>" not in empty


def test_heads_span_and_columns_of_numbers_stand_right() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], ["x", "y"]], names=["model", "benchmark"])
    frame = pd.DataFrame({"up_share": [0.5, -1.0, 2e-9, float("nan")], "word": ["p", "1", "r", "s"]}, index=index)
    html = render(show(text_html=frame.to_html()))
    assert html.count('<th rowspan="2">') == 2
    assert re.findall(r'<t[hd] style="text-align: right;">([^<]*)<', html) == [
        "up_share", "", "5.000000e-01", "-1.000000e+00", "2.000000e-09", "NaN",
    ]  # fmt: skip


def test_parameters_have_the_value_that_was_given_and_the_meaning_that_was_declared() -> None:
    declared = 'bins = 10  # equal parts\nlevel: float = 0.95  # of "it" # really\nrest = [1]'
    found = pages.read_parameters(declared, "# Parameters\nbins = 12\nlevel = 0.9\nrest = ['a', 'b']\n")
    assert found == [("bins", "12", "equal parts"), ("level", "0.9", 'of "it" # really'), ("rest", "['a', 'b']", "")]


def test_printed_text_has_no_terminal_colours_and_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    printed = new_output("stream", name="stdout", text=f"\x1b[31mred\x1b[0m <b>\n{paths.ROOT}/results\n")
    html = render(new_code_cell("x", outputs=[printed]))
    assert '<pre class="printed"><code>red &lt;b&gt;\nresults</code></pre>' in html


def test_a_notebook_without_a_title_is_refused() -> None:
    notebook = make_notebook(paths.ROOT)
    notebook.cells = notebook.cells[1:]
    with pytest.raises(NamedError, match="02_collapse: no heading"):
        pages.render_notebook(STEM, notebook)


# -- the files of a site ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield build(small_root, tmp_path_factory.mktemp("site") / "checkout", patch)


def read(site: Path, file: str) -> list[tuple[str, dict[str, str]]]:
    return Elements((site / file).read_text()).found


def test_every_link_and_every_file_that_a_page_names_is_there_and_none_asks_a_network(site: Path) -> None:
    ids = {file: {a["id"] for _, a in read(site, file) if "id" in a} for file in PAGES}
    for file in PAGES:
        for tag, attributes in read(site, file):
            address = urlsplit(attributes.get("href", attributes.get("src", "")))
            if address.scheme == "data" or not (address.path or address.fragment):
                continue
            assert not address.scheme, f"{file}: {tag} {attributes}"
            target = unquote(address.path) or file
            assert (site / target).is_file(), f"{file}: {target}"
            assert not address.fragment or address.fragment in ids[target], f"{file}: {attributes}"
    for file in [*PAGES, "viewer.js"]:
        text = re.sub(r"http://www.w3.org/(2000/svg|1998/Math/MathML)", "", (site / file).read_text())  # names
        text = text.replace("http://localhost:8000/v1", "")  # the parameter server.url, shown as text
        assert not re.search(r"https?:|//\w+\.\w+/|@import|url\(", text), file


def test_a_page_of_a_notebook_is_one_file_without_a_script_and_its_pictures_say_what_they_show(site: Path) -> None:
    for file in PAGES:
        (policy,) = (a["content"] for t, a in read(site, file) if a.get("http-equiv"))
        scripts = {"viewer.html": "'self' file:"}.get(file, "'none'")
        assert policy.startswith(f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src ")
        check_harmless((site / file).read_text(), ("style", "script") if file == "viewer.html" else ("style",))
    assert [a["src"] for t, a in read(site, "viewer.html") if t == "script"] == ["viewer.js", "data/index.js"]
    pictures = [a for t, a in read(site, f"{STEM}.html") if t == "img"]
    assert [a["alt"] for a in pictures] == [DESCRIBED, "figure: 6 Figure The table first."]
    assert all(a["src"].startswith("data:image/png;base64,") for a in pictures)
    for data in (site / "data").iterdir():
        assert not re.search("[<>&]", data.read_text()), data


def test_a_page_shows_its_parameters_and_where_it_ran_and_links_what_was_recorded(site: Path) -> None:
    text = (site / f"{STEM}.html").read_text()
    assert re.search(r"<td>bins</td>\s*<td>12</td>\s*<td>equal parts &lt;b&gt;</td>", text)
    assert re.search(r"<dt>Python</dt><dd>3\.11\.99</dd>.*<dt>torch</dt><dd>2\..*<dt>ran for</dt><dd>42 s", text, re.S)
    index = (site / "index.html").read_text()
    assert set(re.findall(r"<summary>(\w+)</summary>", index)) == set(params.SECTIONS)
    meaning = params.describe("pages")["item_quantiles"]
    assert f"item_quantiles</th><td>[0.2, 0.8]</td><td>{escape(meaning).replace('&#x27;', '&#39;')}</td>" in index
    for file in PAGES:
        assert str(paths.ROOT) not in (site / file).read_text() and "PosixPath" not in re.sub("<pre.*?</pre>", "", text)
    names = {f"{STEM}.{suffix}" for suffix in ("pdf", "png", "json")}
    assert {file.name for file in (site / "figures").iterdir()} == names
    links = [a.get("href", "") for _, a in read(site, f"{STEM}.html")]
    assert names == {link.removeprefix("figures/") for link in links if "figures" in link}


def test_navigation_names_every_page_and_marks_this_one(site: Path) -> None:
    for file in PAGES:
        links = [a for t, a in read(site, file) if t == "a" and a.get("href") in PAGES]
        assert {a["href"] for a in links} == set(PAGES)
        assert [a["href"] for a in links if a.get("aria-current")] == [file]


def test_a_rebuild_takes_the_place_of_the_old_site_and_leaves_nothing_behind(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages.viewer, "write_viewer", lambda *_: (_[1] / "data").mkdir() or 0)
    monkeypatch.setattr(paths, "pages", lambda profile: site.with_name("other"))
    (site.with_name("other")).mkdir()
    (site.with_name("other") / "stale.html").write_text("")
    pages.build_site(PROFILE, [STEM])
    assert not (site.with_name("other") / "stale.html").exists()
    assert (site.with_name("other") / f"{STEM}.html").read_text() == (site / f"{STEM}.html").read_text()
    assert [p.name for p in site.parent.iterdir() if p.name.startswith(".pages")] == []


def test_a_notebook_that_is_missing_or_failed_is_one_line_and_keeps_the_old_site(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (site / "index.html").stat().st_mtime_ns
    assert pages.main(["--profile", PROFILE, "07_none"]) == 1
    write_notebook(paths.ROOT, exception=True)
    assert pages.main(["--profile", PROFILE, STEM]) == 1
    write_notebook(paths.ROOT)
    folder, remedy = f"results/{PROFILE}/notebooks", f"delete results/{PROFILE}/done/"
    assert capsys.readouterr().err.splitlines() == [
        f"{folder}/07_none.ipynb: not there; {remedy}07_none and run `make all`",
        f"{folder}/{STEM}.ipynb: its last run failed; {remedy}{STEM} and run `make all`",
    ]
    assert (site / "index.html").stat().st_mtime_ns == before


# -- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Any, site: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page from its file; any error and any request to a network fails the test."""
    troubles: list[str] = []
    contexts = []

    def open_page(file: str, width: int = 1280, **options: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 850}, offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
        page.on("request", lambda request: troubles.extend([request.url] * (request.url[:5] not in ("file:", "data:"))))
        page.goto((site / file.split("#")[0]).as_uri() + ("#" + file.split("#")[1] if "#" in file else ""))
        if file.startswith("viewer"):
            page.wait_for_selector("#now strong")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


READ_MAP = "document.querySelector('canvas').toDataURL()"


def read_index(site: Path) -> list[dict[str, Any]]:
    statement = (site / "data" / "index.js").read_text()
    return json.loads(statement[statement.index("(") + 1 : statement.rindex(")")])["items"]


@pytest.mark.parametrize("file", PAGES)
def test_a_page_loads_without_errors_or_network_and_runs_nothing_hostile(visit: Callable[..., Any], file: str) -> None:
    page = visit(file)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.evaluate("[...document.images].every(i => i.loading === 'lazy' || i.naturalWidth > 0)")


def test_a_hostile_question_is_shown_as_the_text_that_it_is(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    assert HOSTILE in page.inner_text("#facts")
    assert HOSTILE in page.get_attribute("#stage img", "alt")
    assert page.evaluate("typeof hacked") == "undefined"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("file", PAGES)
def test_axe_finds_nothing(visit: Callable[..., Any], file: str, width: int) -> None:
    source = read_axe()
    page = visit(file, width)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.add_style_tag(content=".scroll { background: #fff !important }")  # axe measures no contrast on a shade
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {preload: false})")
    rules = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "document-title", "label" if "viewer" in file else "link-name"} <= rules
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found["violations"]] == []
    unsure = [node for rule in found["incomplete"] if rule["id"] == "color-contrast" for node in rule["nodes"]]
    # one letter, an arrow, and text of the chart: the next test measures the chart
    assert {node["any"][0]["data"]["messageKey"] for node in unsure} <= {"shortTextContent", "nonBmp", "imgNode"}


def measure_luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2) of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_and_lines_of_the_chart_stand_out_from_its_darkest_ground(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    for box in page.locator("#legend input").all():
        box.check()
    style = "[...new Set([...document.querySelectorAll('{}')].map(e => getComputedStyle(e).{}))]"
    veil = 0.93  # of the cursor
    ground = veil * min(map(measure_luminance, page.evaluate(style.format("#chart .band", "fill"))))
    lines = "#chart path[stroke], #legend path[stroke]"
    for selector, part, least in (("#chart text", "fill", 4.5), (lines, "stroke", 3.0)):
        colours = page.evaluate(style.format(selector, part))
        assert len(colours) >= 2
        for colour in colours:
            assert (ground + 0.05) / (measure_luminance(colour) + 0.05) >= least, (selector, colour)


@pytest.mark.parametrize("file", PAGES)
def test_a_phone_shows_everything_without_sideways_scrolling(visit: Callable[..., Any], file: str) -> None:
    page = visit(file, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = page.evaluate(
        "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, pre, math, svg, .skip')"
        " && e.getBoundingClientRect().right > 391).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_a_step_changes_the_map_the_text_the_cursor_and_the_address(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    read = [READ_MAP, "document.querySelector('canvas').ariaLabel", "document.querySelector('.cursor').outerHTML",
            "document.getElementById('now').textContent", "location.hash"]  # fmt: skip
    before = [page.evaluate(part) for part in read]
    page.click("#next")
    after = [page.evaluate(part) for part in read]
    assert all(a != b for a, b in zip(before, after, strict=True))
    page.click("#previous")
    assert [page.evaluate(part) for part in read] == before


def test_the_map_shows_the_values_of_the_step(visit: Callable[..., Any], site: Path) -> None:
    statement = (site / read_index(site)[0]["file"]).read_text()
    response = json.loads(statement[statement.index("(") + 1 : statement.rindex(")")])
    page = visit("viewer.html")
    step_map = response["steps"][0]["map"]
    largest = max(max(step["map"]) for step in response["steps"])
    colours = page.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 6, 6).data]")
    lightness = [sum(colours[k * 4 : k * 4 + 3]) for k in range(36)]
    top = step_map.index(max(step_map))
    assert lightness[top] == max(lightness)
    label = page.get_attribute("canvas", "aria-label")
    assert f"row {top // 6 + 1}, column {top % 6 + 1} of 6 x 6" in label
    assert float(page.inner_text("#largest")) == pytest.approx(largest, abs=6e-4)


def test_the_keyboard_moves_through_the_steps_and_leaves_controls_alone(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    shown = "[...document.querySelectorAll('#steps button')].findIndex(b => b.ariaCurrent === 'step')"
    last = page.evaluate("document.querySelectorAll('#steps button').length") - 1
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last), ("ArrowRight", last),
                          ("Home", 0), ("ArrowLeft", 0)):  # fmt: skip
        page.keyboard.press(key)
        assert page.evaluate(shown) == expected, key
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(shown) == 1
    second = page.evaluate("document.getElementById('item').options[1].value")
    page.focus("#item")
    page.keyboard.press("ArrowDown")
    page.locator("#response-title", has_text=second).wait_for()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "item"


def test_every_control_is_reached_with_the_tab_key(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"model", "benchmark", "answers", "item", "previous", "slider", "next"} <= reached


def test_a_link_leads_to_its_item_and_step_and_nonsense_to_the_first(visit: Callable[..., Any], site: Path) -> None:
    entry = read_index(site)[-1]
    page = visit(f"viewer.html#model={entry['model']}&item={entry['id']}&step=2")
    assert page.inner_text("#response-title") == f"{entry['id']}, {entry['model']}"
    assert page.inner_text("#now").startswith("Step 2 of")
    page.evaluate("location.hash = 'item=<img src=x onerror=hacked=1>&step=x'")
    first = read_index(site)[0]
    page.locator("#response-title", has_text=first["id"]).wait_for()
    assert page.inner_text("#now").startswith("Step 1 of")
    assert page.evaluate("typeof hacked") == "undefined"


def test_the_picker_narrows_by_benchmark_and_answer(visit: Callable[..., Any], site: Path) -> None:
    page = visit("viewer.html")
    entries = [e for e in read_index(site) if e["benchmark"] == "hallucination"]
    page.select_option("#benchmark", "hallucination")
    assert page.locator("#item option").count() == len(entries)
    page.select_option("#answers", "false")
    wrong = [e["id"] for e in entries if not e["correct"]]
    assert wrong and page.evaluate("[...document.querySelectorAll('#item option')].map(o => o.value)") == wrong
    page.locator("#facts", has_text="so the response is wrong").wait_for()


def test_lines_are_told_apart_without_colour(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    looks = page.evaluate(
        "[...document.querySelectorAll('#legend svg')].map(s => s.firstChild.getAttribute('stroke-dasharray') + '|'"
        " + [...s.children].slice(1).map(c => c.tagName).join())"
    )
    assert len(looks) == len(set(looks)) == 6


def test_a_chart_line_is_hidden_and_shown_by_its_box(visit: Callable[..., Any]) -> None:
    page = visit("viewer.html")
    lines = "document.querySelectorAll('#chart path[stroke]').length"
    before = page.evaluate(lines)
    page.click("#legend label:nth-child(5) input")
    assert page.evaluate(lines) == before + 1
    page.click("#legend label:nth-child(1) input")
    assert page.evaluate(lines) == before


def test_nothing_moves_for_who_wants_no_motion(visit: Callable[..., Any]) -> None:
    duration = "getComputedStyle(document.querySelector('#steps button')).transitionDuration"
    assert visit("viewer.html", reduced_motion="reduce").evaluate(duration) == "0s"
    assert visit("viewer.html", reduced_motion="no-preference").evaluate(duration) != "0s"


def test_code_is_folded_and_unfolds(visit: Callable[..., Any]) -> None:
    page = visit(f"{STEM}.html")
    assert page.evaluate("[...document.querySelectorAll('details.code')].map(d => d.open)") == [False] * 4
    page.click("details.code summary >> nth=0")
    assert page.locator("pre.python").first.is_visible()


@pytest.fixture
def swapped(site: Path) -> Iterator[dict[str, Any]]:
    """Give the first response a swap whose texts try to run a script, and take it away again."""
    file = site / read_index(site)[0]["file"]
    before = file.read_text()
    response = json.loads(before[before.index("(") + 1 : before.rindex(")")])
    tokens = [{"text": text, "lost_nats": 0.0, "other": None} for text in response["tokens"]]
    tokens[0], tokens[1] = {"text": HOSTILE, "lost_nats": 4.0, "other": HOSTILE}, {**tokens[1], "lost_nats": -1.0}
    swap = {
        "kind": "colour", "own_word": "red", "altered_word": HOSTILE, "image": 0, "corners": [0.5, 0, 2 / 3, 1 / 6],
        "tokens": tokens, "file": response["images"][0]["file"],
    }  # fmt: skip
    file.write_text(pages.viewer.to_script("show", response | {"swap": swap}))
    yield swap
    file.write_text(before)


def test_a_swap_is_told_in_words_numbers_and_shades(visit: Callable[..., Any], swapped: dict[str, Any]) -> None:
    page = visit("viewer.html", 390)
    told = f"At row 1, column 4 of 6 x 6 the colour is red in the picture and {HOSTILE} in its altered copy"
    assert page.inner_text("#swap-told").startswith(told)
    words = page.locator("#swap-words li")
    assert words.count() == len(swapped["tokens"])
    parts = [words.nth(n).locator("> span").all_text_contents() for n in (0, 1)]
    assert parts[0] == [HOSTILE, f"→ {HOSTILE}", "4.0 nats lost"] and parts[1][1:] == ["-1.0 nats lost"]
    assert words.nth(2).locator("span").count() == 1
    shades = [words.nth(n).locator(".word").evaluate("e => getComputedStyle(e).backgroundColor") for n in (0, 1, 2)]
    assert shades[0].endswith("0.45)") and shades[1] == shades[2] and shades[1].endswith(" 0)")
    sizes = page.evaluate("[...document.querySelectorAll('.picture img')].map(i => i.width / i.height)")
    assert sizes == pytest.approx([1.0] * 4, abs=0.02), "a square picture stays one"
    assert page.locator("#swap-stage img").count() == page.locator("#swap-stage svg .box").count() == 2
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_response_without_a_swap_hides_the_section(
    visit: Callable[..., Any], site: Path, swapped: dict[str, Any]
) -> None:
    page, other = visit("viewer.html"), read_index(site)[1]
    assert page.locator("#swap").is_visible()
    page.evaluate(f"location.hash = 'model={other['model']}&item={other['id']}'")
    page.locator("#response-title", has_text=other["id"]).wait_for()
    assert page.locator("#swap").is_hidden() and page.locator("#swap-words li").count() == 0


def test_axe_finds_nothing_in_a_swap(visit: Callable[..., Any], swapped: dict[str, Any]) -> None:
    source = read_axe()
    page = visit("viewer.html")
    page.evaluate(source)
    found = page.evaluate("axe.run('#swap', {preload: false})")
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found["violations"]] == []

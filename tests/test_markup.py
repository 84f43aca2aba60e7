"""Cells become HTML in which nothing of the data is markup, formulas are outlines and tables keep their heads."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.publish import pages

HOSTILE = ["<script>hacked=1</script>", "<img src=x onerror=hacked=1>", "</code></pre><b>", '"\' onclick="x', "&lt;b>"]
TAGS = {"p", "em", "strong", "code", "pre", "a", "span", "svg", "path", "br", "hr", "ul", "ol", "li", "blockquote",
        "div", "table", "thead", "tbody", "tr", "th", "td"}  # fmt: skip
TAGS |= {f"h{level}" for level in range(1, 7)}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_escaped_everywhere(text: str) -> None:
    frame = pd.DataFrame({text: [text]}, index=pd.Index([text], name=text))
    parts = [
        pages.render_markdown(text), pages.render_code(f"x = 1  # {text}"), pages.render_text(text),
        pages.render_table(frame.to_html(), text), pages.render_table(frame.to_html(escape=False), text),
        pages.render_parameters([(text, text, text)]), pages.render_math(text), pages.render_math(text, True),
    ]  # fmt: skip
    for part in parts:
        assert not re.search(r"<(script|img|b)\b", part), part
        assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', part)), part


@given(st.text(alphabet="<>\"'&`$\\{}_^ab \n#|-[]()!:/", max_size=40))
def test_no_markdown_makes_a_tag_that_we_do_not_write(text: str) -> None:
    html = str(pages.render_markdown(text))
    assert set(re.findall(r"</?([a-z0-9]+)", re.sub(r'="[^"]*"', "", html))) <= TAGS


def test_a_link_cannot_run_a_script_and_a_picture_cannot_ask_a_network() -> None:
    html = pages.render_markdown("[a](javascript:hacked=1) [b](https://arxiv.org) ![a <b> cell](https://host/x.png)")
    assert re.findall(r'href="([^"]*)"', html) == ["#harmful-link", "https://arxiv.org"]
    assert "<img" not in html and "a &lt;b&gt; cell" in html


def test_a_formula_is_drawn_and_read_as_its_tex() -> None:
    html = pages.render_markdown("with $m_i$ and\n\n$$\\frac{a}{b} = \\tfrac{1}{2} \\text{ share}$$")
    labels = re.findall(r'aria-label="formula: ([^"]+)"', html)
    assert labels == ["m_i", "\\frac{a}{b} = \\tfrac{1}{2} \\text{ share}"]
    assert html.count("<svg") == 2 and html.count('class="math display"') == 1
    assert all(len(outline) > 50 for outline in re.findall(r' d="([^"]+)"', html))


@pytest.mark.parametrize("tex", [r"\nosuchcommand{x}", r"\frac{a", "x_"])
def test_a_formula_that_cannot_be_drawn_is_shown_as_text(tex: str) -> None:
    assert f"<code>{tex}</code>" in pages.render_math(tex)


def test_dollars_that_are_prices_stay_text() -> None:
    assert "<svg" not in pages.render_markdown("it costs $5 and $6, or a $ alone")


def test_headings_have_ids_for_links() -> None:
    assert '<h2 id="4-load-and-check">4 Load and check</h2>' in pages.render_markdown("## 4 Load and check")


def test_a_table_without_heads_in_markdown_has_none() -> None:
    html = pages.render_markdown("| | |\n|---|---|\n| inputs | tables |\n")
    assert "<thead" not in html and "<td>inputs</td>" in html
    assert "<thead" in pages.render_markdown("| a | b |\n|---|---|\n| c | d |\n")


def test_a_default_index_is_left_out_and_a_named_one_kept() -> None:
    frame = pd.DataFrame({"model": ["a", "b"], "n": [1, 2]}, index=[7, 9])
    assert ">7<" not in pages.render_table(frame.to_html(), "t")
    assert ">7<" in pages.render_table(frame.rename_axis("row").to_html(), "t")


def test_heads_have_scopes_and_numeric_columns_stand_right() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], ["x", "y"]], names=["model", "benchmark"])
    frame = pd.DataFrame({"up_share": [0.5, -1.0, 2e-9, float("nan")], "word": list("pqrs")}, index=index)
    html = pages.render_table(frame.to_html(), "label")
    assert '<th scope="col" class="number">up_<wbr>share</th><th scope="col">word</th>' in html
    assert html.count('<th scope="rowgroup" rowspan="2">') == 2 and html.count('<th scope="row">') == 4
    assert html.count('<td class="number">') == 4 + 1  # four values and the empty cell beneath their head
    assert "<th></th>" not in html and 'aria-label="label"' in html


def test_style_script_and_attributes_of_a_table_are_dropped() -> None:
    html = pages.render_table(
        "<style>td {x: y}</style><table><tr><td onclick='a' colspan='x' rowspan='2'>1<script>z</script></td></tr>"
        "</table>after",
        "t",
    )
    assert "x: y" not in html and "z" not in html and "onclick" not in html and "after" not in html
    assert '<td rowspan="2" class="number">1</td>' in html


def test_an_empty_table_says_so() -> None:
    html = pages.render_table(pd.DataFrame({"item_id": [], "reason": []}).to_html(), "t")
    assert '<td colspan="2">no rows</td>' in html and "<td></td>" not in html


def test_parameters_have_the_value_that_was_given_and_the_meaning_that_was_declared() -> None:
    declared = 'bins = 10  # equal parts\nlevel: float = 0.95  # of "it" # really\nrest = [1]'
    found = pages.read_parameters(declared, "# Parameters\nbins = 12\nlevel = 0.9\nrest = ['a', 'b']\n")
    assert found == [("bins", "12", "equal parts"), ("level", "0.9", 'of "it" # really'), ("rest", "['a', 'b']", "")]


def test_terminal_colours_are_dropped_from_printed_text() -> None:
    assert pages.render_text("\x1b[31mred\x1b[0m <b>\n") == '<pre class="printed">red &lt;b&gt;</pre>'

// The trace viewer. Data arrives as scripts (data/*.js), because a page opened from a file may load nothing else:
// index.js calls dontblink.offer(...), an item's file calls dontblink.show(...). Texts from data are only ever set as
// text, never as markup.
"use strict";

const dontblink = (() => {
  const REGIONS = [
    { key: "evidence", name: "evidence", colour: "#000000", width: 2.4, dash: "", shape: "circle", on: true },
    { key: "control_box", name: "control box", more: " (equal area elsewhere)", colour: "#4a4a4a", width: 1.8, dash: "2 3", shape: "none", on: true },
    { key: "other_image", name: "rest of the image", colour: "#31446b", width: 1.6, dash: "7 3", shape: "square", on: true },
    { key: "earlier_response", name: "earlier response", colour: "#7d7c78", width: 1.6, dash: "", shape: "triangle", on: true },
    { key: "prompt", name: "prompt text", colour: "#575d6d", width: 1.6, dash: "8 3 2 3", shape: "none", on: false },
    { key: "sink", name: "sink", more: " (first token)", colour: "#4a4a4a", width: 1.6, dash: "1 4 4 4", shape: "none", on: false },
  ];
  const SVG = "http://www.w3.org/2000/svg";
  const find = (id) => document.getElementById(id);
  let items = [], colours = [], shown = null, step = 0, wanted = null;

  // -- small makers ---------------------------------------------------------------------------------------------
  function make(parent, name, attributes = {}, text = null) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    parent.append(node);
    return node;
  }

  function trace(parent, name, attributes, text = null) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== null) node.textContent = text;
    parent.append(node);
    return node;
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
  const show_number = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : value.toFixed(3));
  const clean = (text) => text.trim().replace(/\s*\.$/, "");

  // -- which response, which step: the address says it ---------------------------------------------------------
  function read_address() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const found = items.find((entry) => entry.model === asked.get("model") && entry.id === asked.get("item"));
    const number = parseInt(asked.get("step") || "1", 10);
    return { entry: found || null, step: Number.isFinite(number) ? Math.max(number - 1, 0) : 0 };
  }

  function write_address() {
    const address = new URLSearchParams({ model: shown.model, item: shown.id, step: String(step + 1) });
    history.replaceState(null, "", "#" + address.toString());
  }

  function follow_address() {
    const asked = read_address();
    const entry = asked.entry || items[0];
    if (shown && entry.model === shown.model && entry.id === shown.id) return go(asked.step);
    load(entry, asked.step);
  }

  // -- the picker -----------------------------------------------------------------------------------------------
  function fill(select, values, names = values) {
    const before = select.value;
    select.replaceChildren();
    values.forEach((value, k) => make(select, "option", { value }, names[k]));
    if (values.includes(before)) select.value = before;
  }

  function matching() {
    const answers = find("answers").value;
    return items.filter((entry) => entry.model === find("model").value && entry.benchmark === find("benchmark").value
      && (answers === "" || String(entry.correct) === answers));
  }

  function fill_items() {
    const entries = matching();
    const name = (entry) => `${entry.correct ? "correct" : "wrong"}, collapse ${entry.collapse.toFixed(2)}: ${entry.id}`;
    fill(find("item"), entries.map((entry) => entry.id), entries.map(name));
    return entries;
  }

  function pick() {
    const entries = fill_items();
    const entry = entries.find((candidate) => candidate.id === find("item").value) || entries[0];
    if (entry) load(entry, 0);
  }

  function set_picker(entry) {
    find("model").value = entry.model;
    fill(find("benchmark"), [...new Set(items.filter((other) => other.model === entry.model).map((other) => other.benchmark))]);
    find("benchmark").value = entry.benchmark;
    if (find("answers").value !== "" && find("answers").value !== String(entry.correct)) find("answers").value = "";
    fill_items();
    find("item").value = entry.id;
  }

  function load(entry, at) {
    wanted = { entry, step: at };
    set_picker(entry);
    make(document.head, "script", { src: entry.file }).addEventListener("load", (event) => event.target.remove());
  }

  // -- one response ---------------------------------------------------------------------------------------------
  function show(response) {
    if (!wanted || wanted.entry.id !== response.id || wanted.entry.model !== response.model) return; // overtaken
    shown = response;
    find("response").hidden = false;
    find("response-title").textContent = `${response.id}, ${response.model}`;
    const facts = [["question", [response.question, ...response.choices].join("  ")],
      ["answer given", response.parsed ? response.prediction : "none found"],
      ["right answer", `${response.answer}, so the response is ${response.correct ? "correct" : "wrong"}`],
      ["collapse", response.collapse.toFixed(2) + (response.quantile === null ? ", shown for its altered picture (below the chart)" : `, near the ${Math.round(100 * response.quantile)} % quantile of the ${response.correct ? "correct" : "wrong"} answers of this cell`)],
      ["grounding layers", response.layers.join(", ")]];
    if (response.finish_reason === "length") facts.push(["note", "cut at the largest length"]);
    find("facts").replaceChildren();
    for (const [name, value] of facts) {
      const row = make(find("facts"), "div");
      make(row, "dt", {}, name);
      make(row, "dd", {}, value);
    }
    build_stage();
    build_legend();
    build_swap();
    build_risk();
    const list = find("steps");
    list.replaceChildren();
    response.steps.forEach((each, k) => {
      make(make(list, "li"), "button", { type: "button" }, clean(each.text)).addEventListener("click", () => go(k));
    });
    find("answer").textContent = "then: " + response.tokens.slice(response.steps.length ? response.steps.at(-1).end : 0).join(" ");
    find("slider").max = String(Math.max(response.steps.length - 1, 0));
    go(wanted.step);
  }

  function largest_value() {
    return Math.max(...shown.steps.map((each) => Math.max(...each.map)), 1e-12);
  }

  function build_stage() {
    const stage = find("stage");
    stage.replaceChildren();
    shown.images.forEach((image, k) => {
      const which = shown.images.length > 1 ? ` ${k + 1}` : "";
      const labels = image.boxes.map((box) => box.label).filter(Boolean).join(", ");
      const count = `${image.boxes.length} evidence box${image.boxes.length === 1 ? "" : "es"}`;
      const plain = make(stage, "figure");
      add_picture(plain, image, `Picture${which} of the item, ${count} framed${labels ? `: ${labels}` : ""}.`, false);
      make(plain, "figcaption", {}, `picture${which}, evidence framed`);
      const map = make(stage, "figure", { class: "map" });
      const holder = add_picture(map, image, "", true);
      const canvas = make(holder, "canvas", { role: "img", width: image.columns, height: image.rows });
      holder.insertBefore(canvas, holder.querySelector("svg"));
      make(map, "figcaption", {});
    });
    find("ramp").style.background = `linear-gradient(to right, ${colours.filter((_, k) => k % 15 === 0).join(", ")})`;
    find("largest").textContent = show_number(largest_value());
    find("scale").hidden = shown.steps.length === 0;
  }

  function build_swap() {
    const swap = shown.swap;
    find("swap").hidden = !swap;
    find("swap-stage").replaceChildren();
    find("swap-words").replaceChildren();
    if (!swap) return;
    const image = { ...shown.images[swap.image], boxes: [{ corners: swap.corners }] };
    const [x0, y0, x1, y1] = swap.corners;
    const line = Math.ceil(((y0 + y1) / 2) * image.rows), column = Math.ceil(((x0 + x1) / 2) * image.columns);
    const changed = swap.tokens.filter((token) => token.other !== null).length;
    find("swap-told").textContent = `At row ${line}, column ${column} of ${image.rows} x ${image.columns} the ${swap.kind} is ${swap.own_word} in the picture and ${swap.altered_word} in its altered copy; nothing else differs. The response is the own one, read again behind the altered copy: ${changed} of its ${swap.tokens.length} tokens would be another one there, which stands behind an arrow beneath it.`;
    for (const [file, word, name] of [[image.file, swap.own_word, "own picture"], [swap.file, swap.altered_word, "altered picture"]]) {
      const figure = make(find("swap-stage"), "figure");
      add_picture(figure, { ...image, file }, `The ${name}, ${word} framed.`, false);
      make(figure, "figcaption", {}, `${name}: ${word}`);
    }
    const largest = Math.max(...swap.tokens.map((token) => token.lost_nats), 1e-12);
    find("swap-largest").textContent = largest.toFixed(1);
    for (const { text, lost_nats, other } of swap.tokens) {
      const item = make(find("swap-words"), "li", other === null ? {} : { class: "changed" });
      make(item, "span", { class: "word" }, text).style.setProperty("--lost", String(0.45 * Math.max(lost_nats / largest, 0)));
      if (other !== null) make(item, "span", { class: "other" }, `→ ${other}`);
      if (Math.abs(lost_nats) < 0.05) continue; // as 0.0 it would say nothing
      const nats = make(item, "span", { class: "nats" }, lost_nats.toFixed(1));
      make(nats, "span", { class: "unseen" }, " nats lost");
    }
  }

  function build_risk() {
    const told = shown.monitor;
    find("risk").hidden = !told;
    find("risk-words").replaceChildren();
    if (!told) return;
    const blind = told.is_blind.filter(Boolean).length;
    find("risk-told").textContent = `What the monitor of notebook 07 would have said while the response was written: the probability that the answer is wrong if it came now, in percent. Thick lines: confident, not looking, and needed, ${blind} of ${told.risks.length} tokens. Fitted on ${told.domain}.`;
    told.risks.forEach((risk, k) => {
      const item = make(find("risk-words"), "li", told.is_blind[k] ? { class: "changed" } : {});
      make(item, "span", { class: "word" }, shown.tokens[k]).style.setProperty("--lost", String(0.45 * (risk || 0)));
      if (risk !== null) make(item, "span", { class: "nats" }, `${Math.round(100 * risk)} %`);
      if (told.is_blind[k]) make(item, "span", { class: "unseen" }, " flagged");
    });
  }

  function add_picture(figure, image, alt, grey) {
    const holder = make(figure, "div", { class: grey ? "picture grey" : "picture" });
    make(holder, "img", { src: image.file, alt, width: image.width, height: image.height });
    const svg = trace(holder, "svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    if (grey && image.columns <= 40) {
      for (let k = 1; k < image.columns; k++) trace(svg, "path", { class: "grid", d: `M${k / image.columns} 0V1` });
      for (let k = 1; k < image.rows; k++) trace(svg, "path", { class: "grid", d: `M0 ${k / image.rows}H1` });
    }
    for (const kind of ["halo", "box"]) {
      for (const { corners: [x0, y0, x1, y1] } of image.boxes) {
        trace(svg, "rect", { class: kind, x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
      }
    }
    return holder;
  }

  // -- one step -------------------------------------------------------------------------------------------------
  function go(to) {
    const last = shown.steps.length - 1;
    step = Math.min(Math.max(to, 0), Math.max(last, 0));
    find("slider").value = String(step);
    find("previous").setAttribute("aria-disabled", String(step <= 0));
    find("next").setAttribute("aria-disabled", String(step >= last));
    [...find("steps").querySelectorAll("button")].forEach((button, k) => {
      if (k === step) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    });
    write_address();
    const current = shown.steps[step];
    if (!current) find("now").textContent = "This response has no reasoning step.";
    else {
      find("slider").setAttribute("aria-valuetext", `step ${step + 1} of ${last + 1}: ${clean(current.text)}`);
      find("now").replaceChildren();
      make(find("now"), "strong", {}, `Step ${step + 1} of ${last + 1}: ${clean(current.text)}`);
      const part = (key) => show_number(mean(shown.masses[key].slice(current.begin, current.end)));
      const entropy = show_number(mean(shown.entropy_nats.slice(current.begin, current.end)));
      find("now").append(` Evidence mass ${part("evidence")}, rest of the image ${part("other_image")}, entropy ${entropy} nats (means).`);
      draw_maps(current);
    }
    draw_chart();
    list_tokens(current || { begin: 0, end: shown.tokens.length });
  }

  function draw_maps(current) {
    const largest = largest_value();
    let offset = 0;
    [...document.querySelectorAll("figure.map")].forEach((figure, k) => {
      const { rows, columns } = shown.images[k];
      const values = current.map.slice(offset, offset + rows * columns);
      const inside = shown.coverage.slice(offset, offset + rows * columns);
      offset += rows * columns;
      const canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d");
      pen.clearRect(0, 0, columns, rows);
      values.forEach((value, cell) => {
        pen.fillStyle = colours[Math.round((value / largest) * (colours.length - 1))];
        pen.fillRect(cell % columns, Math.floor(cell / columns), 1, 1);
      });
      const top = values.indexOf(Math.max(...values));
      const place = `row ${Math.floor(top / columns) + 1}, column ${(top % columns) + 1} of ${rows} x ${columns}`;
      const on = mean(values) ? values.reduce((sum, value, cell) => sum + value * inside[cell], 0) / (mean(values) * values.length) : 0;
      const told = `${Math.round(100 * on)} % of the attention to this picture on the evidence; most at ${place}, ${inside[top] > 0.5 ? "inside" : "outside"} the evidence`;
      canvas.setAttribute("aria-label", `Attention over the picture at step ${step + 1}, ${clean(current.text)}: ${told}.`);
      figure.querySelector("figcaption").textContent = told;
    });
  }

  function list_tokens(span) {
    const columns = [["entropy (nats)", shown.entropy_nats], ...REGIONS.map((region) => [region.name, shown.masses[region.key]])];
    const head = find("tokens").tHead, body = find("tokens").tBodies[0];
    head.replaceChildren();
    body.replaceChildren();
    const names = make(head, "tr");
    for (const name of ["token", ...columns.map((column) => column[0])]) make(names, "th", { scope: "col" }, name);
    for (let k = span.begin; k < span.end; k++) {
      const row = make(body, "tr");
      make(row, "th", { scope: "row" }, shown.tokens[k]);
      for (const column of columns) make(row, "td", { class: "number" }, show_number(column[1][k]));
    }
  }

  // -- the chart ------------------------------------------------------------------------------------------------
  function build_legend() {
    const legend = find("legend");
    if (legend.childElementCount) return;
    for (const region of REGIONS) {
      const label = make(legend, "label");
      const box = make(label, "input", { type: "checkbox" });
      box.checked = region.on;
      box.addEventListener("change", () => { region.on = box.checked; draw_chart(); });
      const svg = trace(label, "svg", { width: 34, height: 12, "aria-hidden": "true" });
      trace(svg, "path", { d: "M1 6H33", stroke: region.colour, "stroke-width": region.width, "stroke-dasharray": region.dash, fill: "none" });
      add_mark(svg, region, 17, 6);
      label.append(region.name + (region.more || ""));
    }
  }

  function add_mark(svg, region, x, y) {
    const r = 2.6, look = { fill: region.colour };
    if (region.shape === "circle") trace(svg, "circle", { cx: x, cy: y, r, ...look });
    if (region.shape === "square") trace(svg, "rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...look });
    if (region.shape === "triangle") trace(svg, "path", { d: `M${x - r - 0.6} ${y + r}H${x + r + 0.6}L${x} ${y - r - 0.6}Z`, ...look });
  }

  function round_up(value) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-3)));
    return [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= value) || 10 * power;
  }

  function draw_chart() {
    if (!shown) return;
    const holder = find("chart"), width = Math.max(holder.clientWidth, 260);
    const left = 44, right = 8, panels = [{ top: 48, height: 170 }, { top: 256, height: 84 }], bottom = 380;
    const n = shown.tokens.length, slot = (width - left - right) / Math.max(n, 1);
    const x = (token) => left + (token + 0.5) * slot;
    holder.replaceChildren();
    const svg = trace(holder, "svg", { role: "img", width, height: bottom, viewBox: `0 0 ${width} ${bottom}` });
    const visible = REGIONS.filter((region) => region.on);
    const current = shown.steps[step];

    shown.steps.forEach(({ begin, end }, k) => {
      const look = { x: left + begin * slot, width: (end - begin) * slot };
      for (const panel of panels) trace(svg, "rect", { class: k % 2 ? "band odd" : "band", y: panel.top, height: panel.height, ...look });
      const middle = look.x + look.width / 2;
      if (look.width >= (k + 1 > 9 ? 17 : 10) || k === step) trace(svg, "text", { class: k === step ? "step now" : "step", x: middle, y: 34, "text-anchor": "middle" }, String(k + 1));
    });
    trace(svg, "text", { class: "axis", x: left - 5, y: 34, "text-anchor": "end" }, "step");
    const [from, to] = shown.answer_span;
    if (to > from) {
      for (const panel of panels) trace(svg, "rect", { class: "answer", x: left + from * slot, width: (to - from) * slot, y: panel.top, height: panel.height });
      trace(svg, "text", { class: "axis", x: width - right, y: 12, "text-anchor": "end" }, "answer: dashed frame");
    }

    const series = [
      visible.map((region) => ({ ...region, values: shown.masses[region.key] })),
      [{ values: shown.entropy_nats, colour: "#000000", width: 1.6, dash: "", shape: n <= 80 ? "circle" : "none" }],
    ];
    panels.forEach((panel, which) => {
      const top = round_up(Math.max(...series[which].flatMap((line) => line.values), 0.01));
      const y = (value) => panel.top + panel.height * (1 - value / top);
      for (const share of [0, 0.5, 1]) {
        trace(svg, "path", { class: "rule", d: `M${left} ${y(share * top)}H${width - right}` });
        trace(svg, "text", { class: "tick", x: left - 5, y: y(share * top) + 4, "text-anchor": "end" }, String(+(share * top).toPrecision(2)));
      }
      for (const line of series[which]) {
        const points = line.values.map((value, token) => `${x(token).toFixed(1)} ${y(value).toFixed(1)}`);
        trace(svg, "path", { d: "M" + points.join("L"), stroke: line.colour, "stroke-width": line.width, "stroke-dasharray": line.dash, fill: "none", "stroke-linejoin": "round" });
        if (slot >= 6) line.values.forEach((value, token) => add_mark(svg, line, x(token), y(value)));
      }
      trace(svg, "text", { class: "axis", x: left, y: which ? panel.top - 10 : 12 }, which ? "entropy (nats)" : "attention mass (share)");
    });
    trace(svg, "text", { class: "axis", x: (left + width - right) / 2, y: bottom - 6, "text-anchor": "middle" }, "token of the response (number)");
    for (let token = 0; token < n; token += Math.max(5, Math.ceil(n / (width / 60) / 5) * 5)) {
      trace(svg, "text", { class: "tick", x: x(token), y: panels[1].top + panels[1].height + 14, "text-anchor": "middle" }, String(token + 1));
    }
    if (current) {
      const look = { class: "cursor", x: left + current.begin * slot, width: (current.end - current.begin) * slot };
      for (const panel of panels) trace(svg, "rect", { ...look, y: panel.top, height: panel.height });
    }
    const told = current ? ` At step ${step + 1}, tokens ${current.begin + 1} to ${current.end}: ` + visible.map((region) => `${region.name} ${show_number(mean(shown.masses[region.key].slice(current.begin, current.end)))}`).join(", ") + `, entropy ${show_number(mean(shown.entropy_nats.slice(current.begin, current.end)))} nats.` : "";
    svg.setAttribute("aria-label", `Line chart of attention masses and entropy over the ${n} tokens of the response, steps as bands.${told}`);
    svg.addEventListener("click", (event) => {
      const token = Math.floor((event.clientX - svg.getBoundingClientRect().left - left) / slot);
      const hit = shown.steps.findIndex(({ begin, end }) => begin <= token && token < end);
      if (hit >= 0) go(hit);
    });
  }

  // -- start ----------------------------------------------------------------------------------------------------
  function offer(data) {
    ({ items, colours } = data);
    fill(find("model"), [...new Set(items.map((entry) => entry.model))]);
    for (const id of ["model", "benchmark", "answers"]) {
      find(id).addEventListener("change", () => {
        if (id === "model") fill(find("benchmark"), [...new Set(items.filter((entry) => entry.model === find("model").value).map((entry) => entry.benchmark))]);
        pick();
      });
    }
    find("item").addEventListener("change", () => load(matching().find((entry) => entry.id === find("item").value), 0));
    find("picker").addEventListener("submit", (event) => event.preventDefault());
    find("previous").addEventListener("click", () => go(step - 1));
    find("next").addEventListener("click", () => go(step + 1));
    find("slider").addEventListener("input", () => go(Number(find("slider").value)));
    window.addEventListener("hashchange", follow_address);
    window.addEventListener("resize", draw_chart);
    document.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: Infinity };
      const own = event.target.closest && event.target.closest("select, input, .scroll");
      if (!shown || own || !(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(moves[event.key]);
    });
    if (items.length) follow_address();
    else find("picker").replaceChildren("No response to show.");
  }

  return { offer, show };
})();

// The box widget's half in the browser: shows a picture with boxes, lets a person draw, move, resize and name them.
// In: the traits view, picture, boxes and message of dontblink.box_widget. Out: `boxes`, and the messages accept, next
// and previous. Boxes are in px of the whole picture, however large it is shown. Texts of a data set are only ever set
// as textContent, value or an attribute that runs nothing.
const SVG = "http://www.w3.org/2000/svg";
const CLICK_PX = 4; // a drag shorter than this on screen is a click
const HANDLE_PX = 10;
const HINT = "Drag to draw. Click a box to select it; drag it or its corners. Keys on a box: arrows move it (Shift: 10 px), " +
  "Alt with arrows moves its right and bottom edges, Enter names it, Delete removes it. Solid: accepted; dashed: not yet.";

function add(parent, tag, attributes = {}, text = "") {
  const node = parent.namespaceURI === SVG || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 10) / 10;

function render({ model, el }) {
  const root = add(el, "div", { class: "dontblink-boxes", "data-lm-suppress-shortcuts": "true" });
  const place = add(root, "p", { class: "place" });
  const question = add(root, "p", { class: "question", tabindex: "0", role: "group", "aria-label": "question" });
  const bar = add(root, "div", { class: "buttons", role: "toolbar", "aria-label": "boxes" });
  const stage = add(root, "div", { class: "stage" });
  const image = add(stage, "img", { alt: "the image to annotate", draggable: "false" });
  const svg = add(stage, "svg", { role: "group", "aria-label": "boxes on the image", preserveAspectRatio: "none" });
  const list = add(root, "ol");
  const status = add(root, "p", { role: "status", "aria-live": "polite" });
  add(root, "p", { class: "hint" }, HINT);
  let boxes = [], selected = -1, drag = null, url = null;
  const view = () => model.get("view");

  function commit() {
    model.set("boxes", boxes.map((box) => ({ ...box })));
    model.save_changes();
  }

  function send(kind) {
    commit(); // the boxes arrive before the message: one channel, in order
    model.send({ kind });
  }

  for (const [text, action, kind] of [
    ["Previous", () => send("previous")], ["Next", () => send("next")], ["New box", addBox],
    ["Delete box", () => removeBox(selected)], ["Accept", () => send("accept"), "accept"],
  ]) add(bar, "button", { type: "button", class: kind ?? "" }, text).addEventListener("click", action);

  function describe(box, index) {
    const corners = [box.x0, box.y0, box.x1, box.y1].map(round).join(", ");
    return `box ${index + 1}, ${box.accepted ? "accepted" : "not accepted"}, ${corners} px`;
  }

  function drawBoxes(keepFocus = svg.contains(document.activeElement)) {
    const { width, height } = view();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const scale = width / (svg.getBoundingClientRect().width || width);
    boxes.forEach((box, index) => {
      const name = `${box.accepted ? "accepted" : "proposed"}${index === selected ? " selected" : ""}`;
      const label = `${describe(box, index)}${box.reason ? ": " + box.reason : ""}`;
      const group = add(svg, "g", { class: name, tabindex: "0", role: "button", "aria-label": label });
      const place = { x: box.x0, y: box.y0, width: box.x1 - box.x0, height: box.y1 - box.y0 };
      for (const part of ["body", "halo", "line"]) add(group, "rect", { class: part, ...place });
      const letter = 14 * scale;
      add(group, "text", { x: box.x0 + letter / 3, y: box.y0 + letter * 1.1, "font-size": letter }, `${index + 1}`);
      group.addEventListener("focus", () => { if (selected !== index) { selected = index; drawBoxes(true); } });
      group.addEventListener("keydown", (event) => press(event, index));
      if (index !== selected) return;
      const side = HANDLE_PX * scale;
      for (const [corner, x, y] of [["00", box.x0, box.y0], ["10", box.x1, box.y0], ["01", box.x0, box.y1], ["11", box.x1, box.y1]]) {
        const cursor = corner[0] === corner[1] ? "nwse-resize" : "nesw-resize";
        add(group, "rect", { class: "handle", "data-corner": corner, x: x - side / 2, y: y - side / 2, width: side, height: side, style: `cursor: ${cursor}` });
      }
    });
    if (keepFocus && selected >= 0) svg.children[selected]?.focus();
    [...list.children].forEach((row, index) => {
      row.className = index === selected ? "selected" : "";
      if (boxes[index]) row.querySelector(".numbers").textContent = describe(boxes[index], index);
    });
  }

  function drawAll(keepFocus) {
    list.replaceChildren();
    boxes.forEach((box, index) => {
      const row = add(add(list, "li"), "div");
      const input = add(add(row, "label", {}, "needed because "), "input", { type: "text", "aria-label": `why box ${index + 1} is needed` });
      input.value = box.reason;
      input.addEventListener("focus", () => { selected = index; drawBoxes(false); });
      input.addEventListener("input", () => { box.reason = input.value; touch(); drawBoxes(false); commit(); });
      add(row, "span", { class: "numbers" });
      add(row, "button", { type: "button", "aria-label": `delete box ${index + 1}` }, "Delete").addEventListener("click", () => removeBox(index));
    });
    drawBoxes(keepFocus);
  }

  function touch() { // what was accepted was the set of all
    for (const box of boxes) box.accepted = false;
    status.textContent = "not accepted yet";
  }

  function addBox() {
    const { width, height } = view();
    touch();
    boxes.push({ x0: round(width / 4), y0: round(height / 4), x1: round(width * 3 / 4), y1: round(height * 3 / 4), reason: "", accepted: false });
    selected = boxes.length - 1;
    drawAll(true);
    svg.children[selected].focus();
    commit();
  }

  function removeBox(index) {
    if (!boxes[index]) return;
    boxes.splice(index, 1);
    touch();
    selected = Math.min(index, boxes.length - 1);
    drawAll(true);
    commit();
  }

  function shift(box, right, down) {
    const { width, height } = view();
    right = clamp(right, -box.x0, width - box.x1);
    down = clamp(down, -box.y0, height - box.y1);
    box.x0 += right; box.x1 += right; box.y0 += down; box.y1 += down;
    touch();
  }

  function press(event, index) {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const box = boxes[index], { width, height } = view();
    if (arrow) {
      const [right, down] = arrow.map((step) => step * (event.shiftKey ? 10 : 1));
      if (event.altKey) {
        box.x1 = clamp(box.x1 + right, box.x0 + 1, width);
        box.y1 = clamp(box.y1 + down, box.y0 + 1, height);
        touch();
      } else shift(box, right, down);
      drawBoxes(true);
      commit();
    } else if (event.key === "Delete" || event.key === "Backspace") removeBox(index);
    else if (event.key === "Enter") list.children[index].querySelector("input").focus();
    else if (event.key === "Escape") { selected = -1; svg.children[index].blur(); drawBoxes(false); }
    else return;
    event.preventDefault();
  }

  function locate(event) {
    const frame = svg.getBoundingClientRect(), { width, height } = view();
    return [clamp((event.clientX - frame.left) / frame.width * width, 0, width), clamp((event.clientY - frame.top) / frame.height * height, 0, height)];
  }

  const holds = (box, [x, y]) => box && x >= box.x0 && x <= box.x1 && y >= box.y0 && y <= box.y1;

  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    const at = locate(event), corner = event.target.dataset?.corner, box = boxes[selected];
    const kind = corner ? "resize" : holds(box, at) ? "move" : "draw";
    const fixed = corner && [corner[0] === "0" ? box.x1 : box.x0, corner[1] === "0" ? box.y1 : box.y0];
    drag = { kind, at, fixed, start: [event.clientX, event.clientY], moved: false };
    svg.setPointerCapture(event.pointerId);
  });

  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.moved ||= Math.hypot(event.clientX - drag.start[0], event.clientY - drag.start[1]) >= CLICK_PX;
    if (!drag.moved) return;
    const at = locate(event);
    if (drag.kind === "draw") {
      boxes.push({ x0: 0, y0: 0, x1: 0, y1: 0, reason: "", accepted: false });
      selected = boxes.length - 1;
      drag = { ...drag, kind: "resize", fixed: drag.at, isNew: true };
    }
    const box = boxes[selected];
    if (drag.kind === "move") {
      shift(box, at[0] - drag.at[0], at[1] - drag.at[1]);
      drag.at = at;
    } else {
      [box.x0, box.x1] = [drag.fixed[0], at[0]].sort((a, b) => a - b);
      [box.y0, box.y1] = [drag.fixed[1], at[1]].sort((a, b) => a - b);
      touch();
    }
    drawBoxes(false);
  });

  svg.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { moved } = drag, at = locate(event);
    drag = null;
    if (moved) {
      const box = boxes[selected];
      for (const side of ["x0", "y0", "x1", "y1"]) box[side] = round(box[side]);
      if (box.x1 - box.x0 < 1 || box.y1 - box.y0 < 1) return removeBox(selected);
      touch();
    } else { // a click selects the smallest box under it that is not selected yet
      const area = (box) => (box.x1 - box.x0) * (box.y1 - box.y0);
      const under = boxes.map((box, index) => index).filter((index) => index !== selected && holds(boxes[index], at));
      selected = under.sort((a, b) => area(boxes[a]) - area(boxes[b]))[0] ?? (holds(boxes[selected], at) ? selected : -1);
    }
    drawAll(false);
    svg.children[selected]?.focus();
    if (moved) commit();
  });
  svg.addEventListener("pointercancel", () => { drag = null; });
  root.addEventListener("keydown", (event) => event.stopPropagation()); // arrows and d d are the notebook's keys, too

  function show() {
    const { item_id, image: number, n_images, place: at, n_places, question: text, annotator } = view();
    place.textContent = `${at + 1} of ${n_places}: ${item_id}, image ${number + 1} of ${n_images}. You are ${annotator}.`;
    question.textContent = text;
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    image.src = url;
    boxes = model.get("boxes").map((box) => ({ ...box }));
    selected = -1;
    drag = null;
    drawAll(false);
  }
  const say = () => { status.textContent = model.get("message"); };
  model.on("change:view", show);
  model.on("change:message", say);
  const watcher = new ResizeObserver(() => drawBoxes());
  watcher.observe(stage);
  show();
  say();
  return () => {
    watcher.disconnect();
    model.off("change:view", show);
    model.off("change:message", say);
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };

"use strict";
// Drawing by hand: elements, axes and scatter charts. Names go in as text nodes and attributes, never as markup.

function draw(parent, tag, attributes = {}, text) {
  const node = document.createElementNS(parent.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function significant(value) {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

const UNITS = { latency_ms: "ms", bitops: "BitOps", size_mb: "MB" };

function quantity(value, unit, digits = 3) {
  const text = (x) => (digits > 3 ? String(Number(x.toPrecision(digits))) : significant(x));
  if (unit === "ms" || unit === "MB") return `${text(value)} ${unit}`;
  const [scale, prefix] = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"], [1, ""]].find(([s]) => value >= s) || [1, ""];
  return text(value / scale) + prefix;
}

// Labels of ticks, with as many digits as tell them apart.
function labels(values, unit) {
  for (let digits = 3; ; digits++) {
    const found = values.map((value) => (unit === "BitOps" ? quantity(value, unit, digits) : String(Number(value.toPrecision(digits)))));
    if (new Set(found).size === values.length || digits === 12) return found;
  }
}

function shorten(name, length) {
  if (name.length <= length) return name;
  const head = Math.floor((length - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(head + 1 - length)}`;
}

function ticks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * (1 - 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// 1, 2 and 5 times powers of ten; every second power alone where these would be many.
function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const k of [1, 2, 5]) if (k * 10 ** power >= low && k * 10 ** power <= high) found.push(k * 10 ** power);
  }
  return found.length > 10 ? found.filter((value) => Number.isInteger(Math.round(1e6 * Math.log10(value)) / 1e6)) : found;
}

// Kind -> shape, colour, whether it is filled, and what it is called. Shapes differ, so colours need not be seen.
const KINDS = {
  reference: ["square", "ink", true, "reference"],
  uniform: ["triangle", "ink", false, "uniform"],
  built: ["circle", "accent", true, "engines of the front"],
  compared: ["down", "warn", true, "compared"],
  chosen: ["diamond", "accent", true, "chosen"],
  candidate: ["circle", "muted", false, "candidates, search part"],
  mixture: ["circle", "muted", false, "mixtures of the fit"],
  front: ["circle", "accent", true, "engines of the front"],
  round: ["diamond", "accent", true, "rounds of the search"],
};
const SHAPES = {
  square: "M-5-5h10v10h-10z",
  triangle: "M0-6.5 6 5H-6z",
  down: "M0 6.5-6-5H6z",
  diamond: "M0-7.5 7.5 0 0 7.5-7.5 0z",
  circle: "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
};
const FRAME = { width: 720, height: 400, left: 72, right: 704, top: 14, bottom: 350 };

// With several runs on a chart, colour and filling tell the run, and the shape the kind.
function look(item, nRuns) {
  const [shape, colour, filled, name] = KINDS[item.kind];
  if (nRuns === 1) return { shape, colour, filled, name };
  return { shape, colour: item.run ? "warn" : "accent", filled: !item.run, name: name.replace(", search part", "") };
}

function mark(parent, { shape, colour, filled }) {
  return draw(parent, "path", { d: SHAPES[shape], fill: `var(--${filled ? colour : "surface"})`, stroke: `var(--${colour})`,
    "stroke-width": 1.4 });
}

function spread(values, padding) {
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low) * padding || Math.abs(high) * padding || 1;
  return [low - pad, high + pad];
}

class Scatter {
  // options: x, y (labels), unit ("ms" or "BitOps"), lines ([{x} or {y}]), diagonal, front (items on a staircase), nRuns,
  // named (kinds of items whose name stands beside the mark).
  constructor(host, items, options, onPreview, onSelect) {
    Object.assign(this, { host, items, options });
    host.setAttribute("viewBox", `0 0 ${FRAME.width} ${FRAME.height}`);
    const xs = items.flatMap((i) => [i.x - (i.dx || 0), i.x + (i.dx || 0)]);
    const ys = items.flatMap((i) => [i.y - (i.dy || 0), i.y + (i.dy || 0)]);
    const across = xs.concat(options.lines.flatMap((l) => (l.x === undefined ? [] : [l.x])));
    // Costs that span a decade and more lie on a logarithmic axis.
    this.log = !options.diagonal && Math.min(...across) > 0 && Math.max(...across) > 10 * Math.min(...across);
    this.xRange = spread(across.map((x) => this.along(x)), 0.06);
    this.yRange = spread(ys.concat(options.lines.flatMap((l) => (l.y === undefined ? [] : [l.y]))), 0.09);
    if (options.diagonal) this.xRange = this.yRange = spread(xs.concat(ys), 0.06);
    this.axes();
    this.points();
    this.names();
    this.legend();
    this.listen(onPreview, onSelect);
  }

  along(x) { return this.log ? Math.log10(x) : x; }

  px(x) { return FRAME.left + ((this.along(x) - this.xRange[0]) / (this.xRange[1] - this.xRange[0])) * (FRAME.right - FRAME.left); }
  py(y) { return FRAME.bottom - ((y - this.yRange[0]) / (this.yRange[1] - this.yRange[0])) * (FRAME.bottom - FRAME.top); }

  axes() {
    const { host, options } = this, { left, right, top, bottom } = FRAME;
    const grid = draw(host, "g", { class: "axes" });
    const xs = this.log ? decades(...this.xRange.map((x) => 10 ** x)) : ticks(...this.xRange, 7), xNames = labels(xs, options.unit);
    xs.forEach((x, i) => {
      draw(grid, "line", { x1: this.px(x), x2: this.px(x), y1: top, y2: bottom, class: "grid" });
      draw(grid, "text", { x: this.px(x), y: bottom + 18, "text-anchor": "middle", class: "x-tick" }, xNames[i]);
    });
    const ys = ticks(...this.yRange, 6), yNames = labels(ys, "");
    ys.forEach((y, i) => {
      draw(grid, "line", { x1: left, x2: right, y1: this.py(y), y2: this.py(y), class: "grid" });
      draw(grid, "text", { x: left - 8, y: this.py(y) + 4, "text-anchor": "end" }, yNames[i]);
    });
    draw(grid, "text", { x: (left + right) / 2, y: FRAME.height - 8, "text-anchor": "middle" }, options.x);
    draw(grid, "text", { transform: `translate(16 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, options.y);
    if (options.diagonal) {
      const [low, high] = this.xRange;
      draw(grid, "line", { x1: this.px(low), y1: this.py(low), x2: this.px(high), y2: this.py(high), class: "limit quiet" });
    }
    for (const line of options.lines) {
      const ends = line.x === undefined ? { x1: left, x2: right, y1: this.py(line.y), y2: this.py(line.y) }
        : { x1: this.px(line.x), x2: this.px(line.x), y1: top, y2: bottom };
      draw(grid, "line", { ...ends, class: "limit" });
    }
    for (const steps of options.front || []) {
      const d = steps.map((s, i) => (i ? `H${this.px(s.x)}V${this.py(s.y)}` : `M${this.px(s.x)} ${this.py(s.y)}`)).join("");
      draw(grid, "path", { d, class: "front" });
    }
  }

  points() {
    const bars = draw(this.host, "g", { class: "bars" }), marks = draw(this.host, "g", {});
    this.nodes = this.items.map((item, i) => {
      const style = look(item, this.options.nRuns), x = this.px(item.x), y = this.py(item.y);
      const stroke = `var(--${style.colour})`;
      if (item.dx) draw(bars, "line", { x1: this.px(item.x - item.dx), x2: this.px(item.x + item.dx), y1: y, y2: y, stroke });
      if (item.dy) draw(bars, "line", { x1: x, x2: x, y1: this.py(item.y - item.dy), y2: this.py(item.y + item.dy), stroke });
      const label = `${item.label}: ${this.options.x} ${significant(item.x)}, ${this.options.y} ${significant(item.y)}`;
      const node = draw(marks, "g", { transform: `translate(${x} ${y})`, role: "option", id: `${this.host.id}-${i}`,
        "aria-selected": "false", "aria-label": label, class: "point" });
      mark(node, style);
      return node;
    });
    // What has a name lies above the rest, and the chosen engine above all.
    for (const kinds of [this.options.named || [], ["chosen", "round"]]) {
      this.items.forEach((item, i) => { if (kinds.includes(item.kind)) marks.append(this.nodes[i]); });
    }
    this.ring = draw(this.host, "circle", { r: 11, class: "ring" });
  }

  // Names stand above, below or beside their marks: where they cover no mark, else none that has a name. Where there is
  // no such place they are left out.
  names() {
    const group = draw(this.host, "g", { class: "names" });
    const around = (item) => [this.px(item.x) - 8, this.px(item.x) + 8, this.py(item.y) - 8, this.py(item.y) + 8];
    const isNamed = (item) => (this.options.named || []).includes(item.kind);
    const taken = this.items.filter(isNamed).map(around), others = this.items.filter((item) => !isNamed(item)).map(around);
    const inside = ([left, right, top, bottom]) => left >= FRAME.left && right <= FRAME.right && top >= 0 && bottom <= FRAME.bottom;
    const free = (box, boxes) => boxes.every((b) => box[0] >= b[1] || box[1] <= b[0] || box[2] >= b[3] || box[3] <= b[2]);
    for (const item of this.items.filter(isNamed)) {
      const x = this.px(item.x), y = this.py(item.y), width = 7 * item.label.length;
      const places = [[x - width / 2, y - 13], [x - width / 2, y + 21], [x + 12, y + 4], [x - 12 - width, y + 4]]
        .map(([left, base]) => [left, left + width, base - 11, base + 3])
        .filter((box) => inside(box) && free(box, taken));
      const box = places.find((one) => free(one, others)) || places[0];
      if (!box) continue;
      taken.push(box);
      draw(group, "text", { x: (box[0] + box[1]) / 2, y: box[3] - 3, "text-anchor": "middle", class: "name" }, item.label);
    }
  }

  legend() {
    const list = draw(this.host.parentNode, "ul", { class: "legend" });
    list.setAttribute("aria-label", "Marks of the chart");
    const known = new Set();
    for (const item of this.items) {
      const style = look(item, this.options.nRuns), name = this.options.nRuns > 1 ? `${this.options.names[item.run]}: ${style.name}` : style.name;
      if (known.has(name)) continue;
      known.add(name);
      const entry = draw(list, "li");
      const icon = document.createElementNS(this.host.namespaceURI, "svg");
      icon.setAttribute("viewBox", "-9 -9 18 18");
      icon.setAttribute("aria-hidden", "true");
      mark(icon, style);
      entry.append(icon, name);
    }
    if (this.options.lines.length) draw(list, "li", {}, "dashed: budget");
    if (this.options.front?.some((steps) => steps.length > 1)) draw(list, "li", {}, "line: best measured for its cost");
  }

  nearest(event) {
    const matrix = this.host.getScreenCTM();
    if (!matrix) return -1;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let best = -1, least = 16 ** 2;
    this.items.forEach((item, i) => {
      const distance = (this.px(item.x) - at.x) ** 2 + (this.py(item.y) - at.y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  listen(onPreview, onSelect) {
    const { host } = this;
    const order = this.items.map((_, i) => i).sort((a, b) => this.items[a].x - this.items[b].x || this.items[a].y - this.items[b].y);
    let focused = Math.max(0, this.items.findIndex((i) => i.kind === "chosen" || i.kind === "round"));
    host.setAttribute("tabindex", "0");
    host.setAttribute("role", "listbox");
    host.addEventListener("pointermove", (event) => {
      const i = this.nearest(event);
      if (i !== this.hovered) onPreview((this.hovered = i) < 0 ? null : this.items[i]);
    });
    host.addEventListener("pointerleave", () => { this.hovered = -1; onPreview(null); });
    host.addEventListener("click", (event) => {
      const i = this.nearest(event);
      if (i >= 0) { focused = i; onSelect(this.items[i]); }
    });
    host.addEventListener("focus", () => { if (host.matches(":focus-visible")) preview(focused); });
    host.addEventListener("blur", () => onPreview(null));
    const preview = (i) => {
      focused = i;
      host.setAttribute("aria-activedescendant", this.nodes[i].id);
      onPreview(this.items[i]);
    };
    host.addEventListener("keydown", (event) => {
      const at = order.indexOf(focused), last = order.length - 1;
      const next = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last,
        PageUp: at + 10, PageDown: at - 10 }[event.key];
      if (next !== undefined) preview(order[Math.min(last, Math.max(0, next))]);
      else if (event.key === "Enter" || event.key === " ") onSelect(this.items[focused]);
      else return;
      event.preventDefault();
    });
  }

  // Ring the point of an engine and mark the selected one for assistive technology.
  show(shown, selected) {
    const at = this.items.findIndex((item) => same(item, shown));
    this.ring.setAttribute("visibility", at < 0 ? "hidden" : "visible");
    if (at >= 0) {
      this.ring.setAttribute("cx", this.px(this.items[at].x));
      this.ring.setAttribute("cy", this.py(this.items[at].y));
    }
    this.selected?.setAttribute("aria-selected", "false");
    this.selected = this.nodes[this.items.findIndex((item) => same(item, selected))];
    this.selected?.setAttribute("aria-selected", "true");
  }
}

// Items of two charts are the same engine where they have the same assignment.
function same(a, b) {
  return a === b || (a.levels !== null && a.run === b.run && a.levels === b.levels);
}

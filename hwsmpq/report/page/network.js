"use strict";
// The network in order: what every group takes, in which precision, and where data changes its precision.

const STRIP = { left: 84, right: 12, top: 14, bars: 150, gap: 12, lane: 20 };

// What the longest name takes where it stands upright.
function nameRoom(run) {
  return 16 + 6.2 * Math.min(22, Math.max(...run.groups.map((group) => group.name.length)));
}

function levelOf(levels, i) { return levels.charCodeAt(i) - 48; }

// Tensors that one group reads in another format than the group that wrote them.
function switches(run, levels) {
  const format = (group) => run.formats[levelOf(levels, group)];
  return run.edges.filter(([from, to]) => format(from) !== format(to));
}

function drawStrip(host, run, precisions, levels) {
  const { left, right, top, bars, gap, lane } = STRIP, n = run.groups.length;
  const width = Math.max(520, host.parentNode.clientWidth, left + right + 7 * n), step = (width - left - right) / n, named = step >= 12;
  const used = precisions.map((_, level) => level);
  const base = top + bars, lanes = base + gap, foot = lanes + lane * used.length;
  const height = foot + (named ? nameRoom(run) : 10);
  host.replaceChildren();
  host.setAttribute("viewBox", `0 0 ${width} ${height}`);
  host.style.setProperty("--width", `${width}px`);
  const costs = run.groups.map((group, i) => group.cost[levelOf(levels, i)]);
  const highest = Math.max(...run.groups.flatMap((group) => group.cost).filter((cost) => cost !== null), 1e-30);
  const scale = (cost) => base - (cost / highest) * bars;
  for (const cost of ticks(0, highest, 4)) {
    draw(host, "line", { x1: left, x2: width - right, y1: scale(cost), y2: scale(cost), class: "grid" });
    draw(host, "text", { x: left - 8, y: scale(cost) + 4, "text-anchor": "end" }, quantity(cost, run.unit));
  }
  const y = (level) => lanes + lane * (used.length - 0.5 - level), x = (i) => left + step * (i + 0.5);
  for (const level of used) {
    draw(host, "line", { x1: left, x2: width - right, y1: y(level), y2: y(level), class: "grid" });
    draw(host, "text", { x: left - 8, y: y(level) + 4, "text-anchor": "end" }, precisions[level]);
  }
  const barWidth = Math.min(0.86 * step, 54), cellWidth = Math.min(0.92 * step, 58);
  run.groups.forEach((group, i) => {
    const level = levelOf(levels, i), cost = costs[i], fill = `var(--level-${level})`;
    const cell = draw(host, "g", { class: "group", "data-group": i, "data-precision": precisions[level] });
    if (cost !== null && cost !== undefined) {
      draw(cell, "rect", { x: x(i) - barWidth / 2, y: scale(cost), width: barWidth, height: base - scale(cost), fill });
    }
    draw(cell, "rect", { x: x(i) - cellWidth / 2, y: y(level) - 0.38 * lane, width: cellWidth, height: 0.76 * lane, fill });
    const time = cost === null || cost === undefined ? "not measured" : quantity(cost, run.unit) + (run.unit === "ms" ? "" : ` ${run.unit}`);
    const layers = group.layers.length > 1 ? `; layers ${group.layers.join(", ")}` : "";
    draw(cell, "title", {}, `${group.name}: ${precisions[level]}, ${time}${layers}`);
    if (named) {
      draw(host, "text", { transform: `translate(${x(i) + 4} ${foot + 6}) rotate(-90)`, "text-anchor": "end", class: "small" },
        shorten(group.name, 22));
    }
  });
  for (const [from, to] of switches(run, levels)) {
    const a = { x: x(from), y: y(levelOf(levels, from)) }, b = { x: x(to), y: y(levelOf(levels, to)) };
    // Along the writer's lane, then down or up just before the reader: however long, lines of one lane lie on each other.
    const line = draw(host, "path", { d: `M${a.x} ${a.y}H${b.x - step / 2}V${b.y}H${b.x}`, class: "switch" });
    draw(line, "title", {}, `switch: ${run.groups[from].name} to ${run.groups[to].name}`);
    draw(host, "circle", { cx: b.x, cy: b.y, r: 3, class: "switch-end" });
  }
}

function fillLayers(body, run, precisions, levels) {
  const entered = new Set(switches(run, levels).map(([, to]) => to));
  body.replaceChildren();
  run.groups.forEach((group, i) => {
    const level = levelOf(levels, i), cost = group.cost[level];
    group.layers.forEach((layer, position) => {
      const row = draw(body, "tr");
      draw(row, "th", { scope: "row", class: "name" }, layer);
      const cell = draw(row, "td");
      draw(cell, "i", { class: "swatch", style: `background: var(--level-${level})` });
      cell.append(precisions[level]);
      draw(row, "td", { class: "number" }, position ? "with the layer above" : cost === null || cost === undefined ? "not measured" : quantity(cost, run.unit));
      draw(row, "td", {}, entered.has(i) && !position ? "⇄ its input changes precision" : "");
    });
  });
}

// A square for every pair: its side grows with the interaction; filled if both together lose less, hollow if more.
function drawPairs(host, run, pairs) {
  const names = run.groups.map((group) => group.name), n = names.length;
  const cell = Math.max(5, Math.min(24, 620 / n)), named = cell >= 11, left = named ? 150 : 12, top = 8;
  const width = Math.max(320, left + n * cell + 12), height = top + n * cell + (named ? nameRoom(run) : 10);
  host.setAttribute("viewBox", `0 0 ${width} ${height}`);
  host.style.setProperty("--width", `${width}px`);
  const largest = Math.max(...pairs.map(([, , value]) => Math.abs(value)), 1e-30);
  names.forEach((name, i) => {
    draw(host, "line", { x1: left, x2: left + (i + 1) * cell, y1: top + (i + 0.5) * cell, y2: top + (i + 0.5) * cell, class: "grid" });
    draw(host, "line", { x1: left + (i + 0.5) * cell, x2: left + (i + 0.5) * cell, y1: top + i * cell, y2: top + n * cell, class: "grid" });
    if (!named) return;
    draw(host, "text", { x: left - 6, y: top + (i + 0.5) * cell + 4, "text-anchor": "end", class: "small" }, shorten(name, 22));
    draw(host, "text", { transform: `translate(${left + (i + 0.5) * cell + 4} ${top + n * cell + 6}) rotate(-90)`, "text-anchor": "end", class: "small" }, shorten(name, 22));
  });
  for (const [a, b, value] of pairs) {
    const row = Math.max(a, b), column = Math.min(a, b), side = Math.max(2, cell * Math.sqrt(Math.abs(value) / largest));
    const square = draw(host, "rect", { x: left + (column + 0.5) * cell - side / 2, y: top + (row + 0.5) * cell - side / 2, width: side, height: side,
      class: value < 0 ? "more" : "less" });
    draw(square, "title", {}, `${names[column]} and ${names[row]}: ${value.toPrecision(2)}`);
  }
}

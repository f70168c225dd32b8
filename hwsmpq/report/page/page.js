"use strict";
// One selection for the whole page: a point that is hovered or focused is shown, one that is clicked stays.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const everything = [...data.points, ...data.timings];
  const chosen = everything.find((item) => item.kind === "chosen") || everything.find((item) => item.levels !== null);
  const charts = [];
  let selected = chosen;

  function facts(item) {
    const run = data.runs[item.run];
    const point = data.points.find((p) => same(p, item)), timing = data.timings.find((t) => same(t, item));
    const found = data.runs.length > 1 ? [["Run", run.name]] : [];
    const within = (value, error, unit) => quantity(value, unit) + (error ? ` ± ${significant(error)}` : "");
    found.push(["Engine", (point || item).label]);
    const timed = data.axes?.cost === "latency_ms";
    if (point && timed) found.push([`Latency (${point.source})`, within(point.x, point.dx, "ms")]);
    else if (timing) found.push(["Latency (measured)", within(timing.y, timing.dy, "ms")]);
    if (timing) found.push(["Latency predicted", quantity(timing.x, "ms")]);
    if (point && !timed) found.push([data.axes.cost === "bitops" ? "BitOps" : "Weight size", quantity(point.x, UNITS[data.axes.cost])]);
    if (point) {
      found.push([`Metric, points (${point.kind === "candidate" ? "search" : "report"} part)`,
        (point.y > 0 ? "+" : "") + point.y.toFixed(2) + (point.dy ? ` ± ${point.dy.toFixed(2)}` : "")]);
    }
    if (item.levels === null) return [...found, ["Precisions", "not known"]];
    const counts = data.precisions.map((name, level) => [[...item.levels].filter((c) => c.charCodeAt(0) - 48 === level).length, name]);
    found.push(["Groups", counts.filter(([n]) => n).map(([n, name]) => `${n} × ${name}`).join(", ")]);
    return [...found, ["Precision switches", String(switches(run, item.levels).length)]];
  }

  function show(item) {
    const list = find("engine");
    if (!list || !item) return;
    list.replaceChildren();
    for (const [term, value] of facts(item)) {
      const row = draw(list, "div");
      draw(row, "dt", {}, term);
      draw(row, "dd", {}, value);
    }
    const known = item.levels !== null;
    find("strip-frame").hidden = !known;
    if (known) {
      const run = data.runs[item.run];
      drawStrip(find("strip"), run, data.precisions, item.levels);
      find("strip").setAttribute("aria-label", `${item.label}: ${run.groups.length} groups in order, cost and precision of each`);
      if (find("layers").open) fillLayers(find("layer-rows"), run, data.precisions, item.levels);
    }
    for (const chart of charts) chart.show(item, selected);
    find("back").hidden = same(selected, chosen);
    shown = item;
  }
  let shown = chosen;

  function select(item) {
    selected = item;
    show(item);
  }

  function frontOf(items) {
    const steps = [];
    const candidates = items.filter((i) => i.source !== "predicted" && i.kind !== "candidate");
    for (const item of [...candidates].sort((a, b) => a.x - b.x || b.y - a.y)) {
      if (!steps.length || item.y > steps[steps.length - 1].y) steps.push(item);
    }
    return steps;
  }

  function chart(id, items, options) {
    if (find(id) && items.length) {
      options = { nRuns: data.runs.length, names: data.runs.map((run) => run.name), lines: [], ...options };
      charts.push(new Scatter(find(id), items, options, (item) => show(item || selected), select));
    }
  }

  if (data.axes) {
    const lines = [];
    if (data.axes.xLimit !== null && data.runs.length === 1) lines.push({ x: data.axes.xLimit });
    if (data.axes.yLimit !== null && data.runs.length === 1) lines.push({ y: data.axes.yLimit });
    chart("front", data.points, { ...data.axes, lines, unit: UNITS[data.axes.cost],
      named: data.runs.length === 1 ? ["chosen", "reference", "uniform", "compared"] : [],
      front: data.runs.map((_, n) => frontOf(data.points.filter((point) => point.run === n))) });
  }
  chart("timings", data.timings, { x: "predicted latency (ms)", y: "measured latency (ms)", unit: "ms", diagonal: true });
  if (find("pairs")) drawPairs(find("pairs"), data.runs[0], data.interactions);
  if (find("engine")) {
    find("back").addEventListener("click", () => select(chosen));
    find("layers").addEventListener("toggle", () => show(shown));
    show(selected);
  }

  // Tables whose head cells say so are sorted by a click on them.
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    const button = draw(head, "button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const body = head.closest("table").tBodies[0], column = head.cellIndex;
      const falling = head.getAttribute("aria-sort") !== "descending";
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numeric = [...body.rows].every((row) => row.cells[column].dataset.value !== undefined);
      const order = numeric ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      body.append(...[...body.rows].sort((a, b) => (falling ? -order(a, b) : order(a, b))));
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    });
  }
})();

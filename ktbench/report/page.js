"use strict";
// Sorts and filters the page's tables and shows a cell's details. Nothing is fetched; every text is
// set as text, never as markup. Without this script the page is whole, only still.
(() => {
  const FILTER_ROWS = 8; // a table with more rows gets a filter
  const SVG = "http://www.w3.org/2000/svg";
  const UNITS = {
    k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18, // with or without B
    "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600,
  };
  const FIGURE = /([+−-]?)((?:\d[\d,]*)?\.?\d+)(?:e([+−-]?\d+))?\s*([a-zA-Zµ]*)/;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // ------------------------------------------------------------ sorting

  // The first figure of a text in its basic unit: of an interval, its mean. NaN for none.
  function figure(text) {
    const found = FIGURE.exec(text);
    if (!found) return NaN;
    const [, sign, digits, power, unit] = found;
    let value = parseFloat(digits.replaceAll(",", ""));
    if (power) value *= 10 ** parseInt(power.replace("−", "-"), 10);
    value *= UNITS[unit] ?? UNITS[unit.replace(/B$/, "")] ?? 1;
    return sign === "−" || sign === "-" ? -value : value;
  }

  // What has no value comes last in both directions.
  function compare(a, b, direction) {
    const noA = a === "" || Number.isNaN(a), noB = b === "" || Number.isNaN(b);
    if (noA || noB) return noA - noB;
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return direction * order;
  }

  const NOTHING = new Set(["", "–"]);

  function sort(table, index, direction, original) {
    const body = table.tBodies[0];
    const rows = direction ? [...body.rows] : original;
    if (direction) {
      const texts = rows.map((row) => row.cells[index].textContent.trim());
      const figures = table.tHead.rows[0].cells[index].classList.contains("number")
        || texts.every((text) => NOTHING.has(text) || /^[+−-]?\d/.test(text));
      const values = new Map(rows.map((row, i) =>
        [row, figures ? figure(texts[i]) : NOTHING.has(texts[i]) ? "" : texts[i]]));
      rows.sort((a, b) => compare(values.get(a), values.get(b), direction));
    }
    body.append(...rows);
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const original = [...table.tBodies[0].rows];
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    heads.forEach((head, index) => {
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const state = next[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", state);
        sort(table, index, { ascending: 1, descending: -1, none: 0 }[state], original);
      });
    });
  }

  // ------------------------------------------------------------ filtering

  function makeFilter(box, table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= FILTER_ROWS) return;
    const caption = box.querySelector(".caption")?.textContent ?? "table";
    const input = make("input", {
      type: "search", placeholder: "Filter rows", "aria-label": `Filter: ${caption}`,
      autocomplete: "off", spellcheck: "false",
    });
    const count = make("span", { class: "count", role: "status" });
    const texts = rows.map((row) => [...row.cells].map((c) => c.textContent).join(" ").toLowerCase());
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += !row.hidden;
      });
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
    box.querySelector(".scroll").before(make("div", { class: "filter" }, input, count));
  }

  for (const box of document.querySelectorAll("main .table")) {
    const table = box.querySelector("table");
    if (!table) continue;
    makeSortable(table);
    makeFilter(box, table);
  }

  // ------------------------------------------------------------ curves

  function draw(tag, attributes, text = "") {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  }

  function ticks(low, high) {
    const raw = (high - low) / 4 || 1;
    const base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((m) => m * base >= raw) * base;
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) {
      found.push(+(n * step).toPrecision(10));
    }
    return found;
  }

  const H = 200, LEFT = 46, RIGHT = 14, TOP = 8, BOTTOM = 30;

  // lines: [{name, epoch, values, kind}]; phases: [[epoch, name]]
  function chart(title, lines, format, phases) {
    const W = Math.max(280, body.clientWidth - 46); // so that a unit is a pixel on any screen
    const all = lines.flatMap((line) => line.values).filter((v) => v !== null);
    const lastEpoch = Math.max(...lines.flatMap((line) => line.epoch));
    const low = Math.min(...all), high = Math.max(...all);
    const pad = (high - low || Math.abs(high) || 1) * 0.05;
    const first = Math.min(1, ...lines.flatMap((line) => line.epoch));
    const x = (e) => LEFT + (W - LEFT - RIGHT) * (e - first) / (lastEpoch - first || 1);
    const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - (v - low + pad) / (high - low + 2 * pad));
    const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
    for (const v of ticks(low - pad, high + pad)) {
      svg.append(draw("line", { x1: LEFT, x2: W - RIGHT, y1: y(v), y2: y(v), class: "grid" }));
      svg.append(draw("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, format(v)));
    }
    for (const e of ticks(first, lastEpoch).filter(Number.isInteger)) {
      svg.append(draw("text", { x: x(e), y: H - 12, "text-anchor": "middle" }, String(e)));
    }
    phases.slice(1).forEach(([e]) => {
      svg.append(draw("line", { x1: x(e), x2: x(e), y1: TOP, y2: H - BOTTOM, class: "phase" }));
    });
    lines.forEach((line) => {
      let path = "", pen = "M";
      line.values.forEach((v, i) => {
        if (v === null) { pen = "M"; return; }
        path += `${pen}${x(line.epoch[i]).toFixed(1)},${y(v).toFixed(1)}`;
        pen = "L";
      });
      svg.append(draw("path", { d: path, class: `line ${line.kind}` }));
      const points = line.values.flatMap((v, i) => (v === null ? [] : [i]));
      if (points.length === 1) {
        const [i] = points;
        const at = { cx: x(line.epoch[i]), cy: y(line.values[i]), r: 3 };
        svg.append(draw("circle", { ...at, class: `dot ${line.kind}` }));
      }
    });
    const legend = make("figcaption", {}, `${title}: `);
    lines.forEach((line, i) => {
      legend.append(i ? " · " : "", make("span", { class: `key ${line.kind}` }, line.name));
    });
    return make("figure", { class: "chart" }, svg, legend);
  }

  function curves(details, base) {
    const own = details.curves, found = [];
    if (!own) return [make("p", { class: "note muted" }, "No curves: this cell was not trained.")];
    const accuracy = [{ name: "this cell", epoch: own.epoch, values: own.accuracy, kind: "c0" }];
    if (base?.curves) {
      const { epoch, accuracy: values } = base.curves;
      accuracy.unshift({ name: "no transfer, same seed", epoch, values, kind: "base" });
    }
    const percent = (v) => `${+(100 * v).toFixed(1)} %`;
    found.push(chart("Validation accuracy by epoch", accuracy, percent, own.phases));
    const losses = Object.entries(own.losses).map(([name, values], i) =>
      ({ name, epoch: own.epoch, values, kind: `c${i % 8}` }));
    if (losses.length) found.push(chart("Loss by epoch", losses, String, own.phases));
    const notes = [];
    if (own.phases.length > 1) {
      notes.push(`Phases: ${own.phases.map(([e, name]) => `${name} from epoch ${e}`).join(", ")}.`);
    }
    if (own.of > own.epoch.length) {
      notes.push(`${own.epoch.length} of ${own.of} epochs are drawn; the Parquet file has all.`);
    }
    if (notes.length) found.push(make("p", { class: "more" }, notes.join(" ")));
    return found;
  }

  // ------------------------------------------------------------ details

  const data = JSON.parse(document.getElementById("cell-data").textContent);
  const cells = new Map(Object.entries(data.cells ?? {}));
  const groupOf = new Map((data.groups ?? []).flatMap((keys) => keys.map((key) => [key, keys])));
  const dialog = document.getElementById("details");
  const body = document.getElementById("details-body");
  const heading = document.getElementById("details-title");

  function factList(facts) {
    return make("dl", {}, ...facts.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function part({ title, facts, heads, rows, notes = [], failed = [] }) {
    const section = make("div", { class: "part" }, make("h3", {}, title));
    if (facts) section.append(factList(facts));
    if (rows?.length) {
      const head = make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)));
      const lines = rows.map((row) => make("tr", {}, ...row.map((v) => make("td", {}, v))));
      const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
      const scroll = { class: "scroll", tabindex: "0", role: "group", "aria-label": title };
      section.append(make("div", scroll, table));
    }
    failed.forEach((words) => section.append(make("p", { class: "note bad" }, words)));
    notes.forEach((words) => section.append(make("p", { class: "more" }, words)));
    return section;
  }

  function seeds(key) {
    const list = make("p", { class: "seeds" }, "Seeds: ");
    for (const other of groupOf.get(key) ?? []) {
      const link = make("a", { href: `#cell-${other}` }, String(cells.get(other).seed));
      if (other === key) link.setAttribute("aria-current", "true");
      list.append(link, " ");
    }
    return list;
  }

  function tell(key) {
    const details = cells.get(key);
    const base = details.base && details.base !== key ? cells.get(details.base) : null;
    heading.textContent = `${details.title} / seed ${details.seed}`;
    const [command, words] = details.again;
    body.replaceChildren(
      make("p", {}, make("span", { class: `status ${details.status}` }, details.status),
        details.reason ? ` ${details.reason}` : ""),
      seeds(key),
      factList(details.facts),
      make("div", { class: "part" }, make("h3", {}, "Curves"), ...curves(details, base)),
      ...(details.exports ? [part(details.exports)] : []),
      ...details.parts.map((place) => part(data.shared[place])),
      make("div", { class: "part" }, make("h3", {}, "Reproduce"),
        make("pre", {}, make("code", {}, command)), make("p", { class: "more" }, words)),
    );
    if (base) {
      const link = make("a", { href: `#cell-${details.base}` }, "its no-transfer cell");
      body.querySelector(".seeds").append("· ", link);
    }
    body.scrollTop = 0;
  }

  function unknown(key) {
    heading.textContent = "Cell not found";
    body.replaceChildren(make("p", {},
      `This page has the details of ${cells.size} cells, and ${key} is not among them: ` +
      "its record, if it has one, is in the results folder under cells/."));
  }

  function follow() {
    const found = /^#cell-(.+)$/.exec(location.hash);
    if (!found) {
      if (dialog.open) dialog.close();
      return;
    }
    if (!dialog.open) dialog.showModal(); // first, as curves are drawn to its width
    if (cells.has(found[1])) tell(found[1]);
    else unknown(found[1]);
  }

  // Without the browser's own jump to the cell's row: closing leaves the reader in place.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#cell-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    follow();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the panel
  });
  document.getElementById("details-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#cell-")) history.pushState(null, "", "#");
  });
  window.addEventListener("hashchange", follow);
  window.addEventListener("popstate", follow);
  follow();
})();

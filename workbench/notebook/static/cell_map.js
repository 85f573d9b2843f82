// The cell map: the pool as a strip of cells wrapped over a few lines, drawn from `map_state`.

const NAMES = {
  filled: "filled", reserved: "reserved", shared: "shared", question: "questions",
  flash: "flash", "next window": "next windows", "old window": "old windows",
  prompt: "prompts", free: "free", reading: "read now",
};
const SVG = "http://www.w3.org/2000/svg";
const LINE = 19, GAP = 4, LEAST = 2.5, CHIPS = 12;
let maps = 0;

function draft(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** Colour by place, and a pattern, so that the first two dozen differ in one or the other. */
function look(place) {
  if (place < 0) return { colour: "var(--wb-quiet, #7f868e)", pattern: 1 };
  const again = Math.floor(place / 6);
  return { colour: `var(--wb-${place % 6}, #2a82c9)`, pattern: ((place % 6) + again) % 4 };
}

/** Patterns that lie over a colour: 1 leaning lines, 2 dots, 3 upright lines, 4 leaning back. */
function patterns(id) {
  const defs = draft("defs");
  const add = (number, size, turn, shape) => {
    const pattern = draft("pattern", { id: `${id}-${number}`, width: size, height: size,
      patternUnits: "userSpaceOnUse", patternTransform: `rotate(${turn})` });
    pattern.append(shape);
    defs.append(pattern);
  };
  const line = (width) => draft("rect", { width, height: 7, fill: "#fff", "fill-opacity": 0.3 });
  add(1, 6, 45, line(2));
  add(2, 5, 0, draft("circle", { cx: 2, cy: 2, r: 1.1, fill: "#fff", "fill-opacity": 0.5 }));
  add(3, 6, 0, line(2));
  add(4, 6, -45, line(2.6));
  return defs;
}

/** The rectangles of one piece on one line, as `[dy, height, fill, opacity]`. */
function layers(state, piece) {
  const [, , filled, kind, holders, , readers] = piece;
  if (kind === "free") return [];
  if (kind === "question") return [[0, 1, "var(--wb-ink, #24292f)", 1, 0]];
  if (kind === "flash") return [[0.4, 0.6, "var(--wb-ink, #24292f)", 0.75, 0]];
  const of = holders.map((at) => state.holders[at][1]).filter((place) => place >= 0);
  const places = of.length ? of : [-1];
  const bands = places.slice(0, 5).map((place, at, all) => {
    const { colour, pattern } = look(place);
    const opacity = filled === "filled" ? 1 : 0.24;
    return [at / all.length, 1 / all.length, colour, opacity, filled === "filled" ? pattern : 0];
  });
  if (kind === "next window") for (const band of bands) { band[3] *= 0.6; band[4] = 1; }
  if (kind === "old window") for (const band of bands) { band[3] *= 0.45; band[4] = 4; }
  if (readers) bands.push([0.86, 0.14, "var(--wb-ink, #24292f)", 0.9, 0]);  // read by a branch now
  return bands;
}

function said(state, piece) {
  const [start, length, filled, kind, holders, shared, readers] = piece;
  const last = start + length - 1;
  const cells = length === 1 ? `cell ${count(start)}` : `cells ${count(start)}\u2013${count(last)} (${count(length)})`;
  if (kind === "free") return ["free", cells];
  const names = holders.map((at) => state.holders[at][0]);
  const who = names.slice(0, 6).join(", ") + (names.length > 6 ? ` and ${names.length - 6} more` : "");
  const what = { session: "", "next window": "next window of ", "old window": "old window of ",
    question: "a question on ", flash: "a flash query on ", prompt: "" }[kind];
  const nameless = names.length === 1 && state.holders[holders[0]][1] < 0 && kind !== "session";
  const lines = [nameless ? names[0] : what + who, `${cells}, ${filled}`];
  if (holders.length === 1 && kind === "session") {
    const [, , full, most] = state.holders[holders[0]];
    if (most) lines.push(`${names[0]} has filled ${count(full)} of its ${count(most)}`);
  } else if (shared > 1) {
    lines.push(`computed once, held by ${shared}: saves ${count((shared - 1) * length)} cells`);
  }
  if (readers) lines.push(`read by ${readers === 1 ? "one branch" : `${readers} branches`} now`);
  return lines;
}

export default {
  render({ model, el }) {
    const id = `wb-cells-${(maps += 1)}`;
    const root = make("div", "wb-cells");
    const head = make("div", "wb-cells-head");
    const words = make("div", "wb-cells-words");
    head.append(make("div", "wb-title", "Cells"), words);
    const strip = make("div", "wb-cells-strip");
    strip.tabIndex = 0;
    strip.setAttribute("role", "group");
    strip.setAttribute("aria-roledescription", "map of the pool; arrow keys go from run to run");
    const svg = draft("svg", { "aria-hidden": "true" });
    const ground = draft("g"), bodies = draft("g"), labels = draft("g"), marks = draft("g");
    svg.append(patterns(id), ground, bodies, labels, marks);
    const legend = make("ul", "wb-cells-legend"), chips = make("ul", "wb-cells-legend wb-cells-chips");
    const tip = make("div", "wb-cells-tip");
    tip.hidden = true;
    const spoken = make("div", "wb-cells-said");
    spoken.setAttribute("aria-live", "polite");
    strip.append(svg);
    root.append(head, strip, chips, legend, tip, spoken);
    el.append(root);

    let state = {}, boxes = [], chosen = null, pointed = null, shownOf = null, width = 0;

    /** Reuse the children of a group in order. */
    function draw(group, tag, items, paint) {
      while (group.childElementCount > items.length) group.lastElementChild.remove();
      while (group.childElementCount < items.length) group.append(draft(tag));
      let node = group.firstElementChild;
      for (const item of items) {
        paint(node, item);
        node = node.nextElementSibling;
      }
    }
    const number = (node, name, value) => setAttribute(node, name, Math.round(value * 100) / 100);

    function layout() {
      const lines = Math.max(1, Math.ceil(state.cells / state.line));
      const left = Math.ceil(6.3 * count(state.line * (lines - 1)).length) + 8;
      const across = Math.max(40, width - left);
      const grounds = [];
      for (let line = 0; line < lines; line += 1) {
        const cells = Math.min(state.line, state.cells - line * state.line);
        grounds.push([line, across * cells / state.line]);
      }
      boxes = [];
      state.pieces.forEach((piece, index) => {
        const end = piece[0] + piece[1];
        for (let line = Math.floor(piece[0] / state.line); line * state.line < end; line += 1) {
          const from = Math.max(piece[0] - line * state.line, 0);
          const to = Math.min(end - line * state.line, state.line);
          const real = across * (to - from) / state.line;
          const wide = Math.max(real, piece[3] === "free" ? real : LEAST);
          const x = left + Math.min(across * from / state.line, grounds[line][1] - wide);
          boxes.push({ index, piece, line, x, wide, real, y: line * (LINE + GAP) });
        }
      });
      return { lines, left, grounds };
    }

    function redraw() {
      if (!state.cells || !width) return;
      const { lines, left, grounds } = layout();
      const height = lines * (LINE + GAP) - GAP;
      setAttribute(svg, "viewBox", `0 0 ${width} ${height}`);
      svg.style.height = `${height}px`;
      draw(ground, "rect", grounds, (node, [line, wide]) => {
        number(node, "x", left);
        number(node, "y", line * (LINE + GAP));
        number(node, "width", wide);
        number(node, "height", LINE);
        setAttribute(node, "fill", "var(--wb-fill, #eceef0)");
      });
      // What is narrower than can be seen lies over its neighbours.
      const order = [...boxes].sort((one, other) => (one.real < LEAST) - (other.real < LEAST));
      const rects = [];
      for (const box of order) {
        for (const [down, tall, fill, opacity, pattern] of layers(state, box.piece)) {
          // A hair between runs, where there is room for one.
          const wide = box.wide > 6 ? box.wide - 0.8 : box.wide;
          const at = [box.x, box.y + down * LINE, wide, tall * LINE];
          rects.push([...at, fill, opacity]);
          if (pattern && box.wide > 4) rects.push([...at, `url(#${id}-${pattern})`, 1]);
        }
      }
      draw(bodies, "rect", rects, (node, [x, y, wide, tall, fill, opacity]) => {
        number(node, "x", x);
        number(node, "y", y);
        number(node, "width", wide);
        number(node, "height", tall);
        setAttribute(node, "fill", fill);
        setAttribute(node, "fill-opacity", opacity);
      });
      draw(labels, "text", written(left), (node, [x, y, text, kind, anchor]) => {
        number(node, "x", x);
        number(node, "y", y);
        setAttribute(node, "class", kind);
        setAttribute(node, "text-anchor", anchor);
        setText(node, text);
      });
      point();
    }

    /** The first cell of every line, and each holder's name once, where it fits. */
    function written(left) {
      const out = [], best = new Map();
      for (const box of boxes) {
        if (box.x === left || box.piece[0] <= box.line * state.line) {
          const text = count(box.line * state.line);
          if (!out.some((label) => label[2] === text)) {
            out.push([left - 6, box.y + 13.5, text, "wb-cells-at", "end"]);
          }
        }
        const [, , filled, kind, holders, shared] = box.piece;
        if (kind !== "session" && kind !== "prompt") continue;
        const name = holders.length === 1 ? state.holders[holders[0]][0]
          : shared > 1 ? `shared by ${shared}` : "";
        const need = 6.6 * name.length + 12;
        if (!name || box.real < need) continue;
        // On filled cells sooner than on reserved ones, and where there is most room.
        const score = box.real + (filled === "filled" ? 1e6 : 0);
        if (score > (best.get(name)?.score ?? -1)) best.set(name, { score, box, name, filled });
      }
      for (const { box, name, filled } of best.values()) {
        out.push([box.x + 6, box.y + 13.5, name,
          filled === "filled" ? "wb-cells-on" : "wb-cells-in", "start"]);
      }
      return out;
    }

    /** Outline what is pointed at: a run, or all of one holder's. */
    function point() {
      const index = pointed ?? chosen;
      const marked = boxes.filter((box) => (shownOf === null ? box.index === index
        : box.piece[4].includes(shownOf)));
      draw(marks, "rect", marked, (node, box) => {
        number(node, "x", box.x - 0.5);
        number(node, "y", box.y - 1);
        number(node, "width", box.wide + 1);
        number(node, "height", LINE + 2);
        setAttribute(node, "class", "wb-cells-mark");
      });
      const box = shownOf === null && boxes.find((each) => each.index === index);
      setProperty(tip, "hidden", !box);
      if (!box) return;
      const lines = said(state, box.piece);
      keyed(tip, lines.map((line, at) => [at, line]), (line) => line[0], () => make("div"),
        (node, line) => setText(node, line[1]));
      const last = boxes.filter((each) => each.index === index).at(-1);
      const over = pointed === null ? box.x + box.wide / 2 : where;
      const most = root.clientWidth - tip.offsetWidth - 4;
      tip.style.left = `${Math.max(4, Math.min(over + strip.offsetLeft - tip.offsetWidth / 2, most))}px`;
      const line = pointed === null ? last.y : whereLine * (LINE + GAP);
      // Away from the nearer edge, since nothing shows outside of the panel.
      const above = line + LINE / 2 > strip.clientHeight / 2;
      const down = above ? line - tip.offsetHeight - 6 : line + LINE + 6;
      tip.style.top = `${strip.offsetTop + down}px`;
    }

    let where = 0, whereLine = 0;
    strip.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect();
      const x = event.clientX - frame.left, y = event.clientY - frame.top;
      const line = Math.floor(y / (LINE + GAP));
      const here = boxes.filter((box) => box.line === line && x >= box.x && x <= box.x + box.wide);
      const box = here.sort((one, other) => one.wide - other.wide)[0];
      pointed = box ? box.index : null;
      [where, whereLine] = [x, line];
      point();
    });
    strip.addEventListener("pointerleave", () => { pointed = null; point(); });
    strip.addEventListener("blur", () => { chosen = null; point(); });
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const last = (state.pieces || []).length - 1;
      if (event.key === "Escape") chosen = null;
      else if (event.key === "Home") chosen = 0;
      else if (event.key === "End") chosen = last;
      else if (step) chosen = chosen === null ? 0 : Math.min(Math.max(chosen + step, 0), last);
      else return;
      event.preventDefault();
      event.stopPropagation();  // not the notebook's own shortcuts
      pointed = null;
      point();
      setText(spoken, chosen === null ? "" : said(state, state.pieces[chosen]).join("; "));
    });

    function swatch(node, places, opacity, pattern, tall = 1) {
      const picture = draft("svg", { viewBox: "0 0 16 12", "aria-hidden": "true" });
      if (places.length === 0) {
        picture.append(draft("rect", { x: 0.5, y: 0.5, width: 15, height: 11, rx: 2,
          fill: "var(--wb-fill, #eceef0)", stroke: "var(--wb-line, #d0d3d8)" }));
      }
      if (opacity < 0.4) {
        picture.append(draft("rect", { x: 0.5, y: 0.5, width: 15, height: 11, fill: "none",
          stroke: places[0], "stroke-opacity": 0.6 }));
      }
      places.forEach((colour, at) => {
        const box = { y: 12 * (1 - tall) + at * 12 / places.length, width: 16,
          height: 12 * tall / places.length };
        picture.append(draft("rect", { ...box, fill: colour, "fill-opacity": opacity }));
        if (pattern) picture.append(draft("rect", { ...box, fill: `url(#${id}-${pattern})` }));
      });
      node.prepend(picture);
    }
    const any = "var(--wb-quiet, #7f868e)", ink = "var(--wb-ink, #24292f)";
    const swatches = {
      filled: [[any], 1, 0], reserved: [[any], 0.24, 0],
      shared: [["var(--wb-0, #2a82c9)", "var(--wb-1, #d97a0a)"], 1, 0], question: [[ink], 1, 0],
      flash: [[ink], 0.75, 0, 0.6], "next window": [[any], 0.6, 1], "old window": [[any], 0.45, 4],
      prompt: [[any], 1, 1], free: [[], 1, 0], reading: [[ink], 0.9, 0, 0.25],
    };

    function entry() {
      const node = make("li");
      node.append(make("span", "wb-cells-name"), make("b"));
      return node;
    }

    const stop = follow(model, (next, over) => {
      state = next.cells ? next : { cells: 0, pieces: [], holders: [], counts: {} };
      if (chosen !== null && chosen >= state.pieces.length) chosen = null;
      keyed(words, state.cells ? ["free", "saved"] : ["none"], (key) => key, () => make("span"),
        (node, key) => {
          if (key === "none") return setText(node, "waiting for the engine");
          const [value, text] = key === "free"
            ? [count(state.free), ` of ${count(state.cells)} cells free`]
            : [count(state.saved), state.saved ? " saved by sharing" : ""];
          if (key === "saved" && !state.saved) return node.replaceChildren();
          if (!node.firstChild) node.append(key === "saved" ? ", " : "", make("b"), make("span"));
          setText(node.querySelector("b"), value);
          setText(node.lastElementChild, text);
        });
      strip.setAttribute("aria-label", words.textContent);
      const holders = state.holders.map((holder, at) => [at, ...holder]).filter((h) => h[2] >= 0);
      const more = holders.length - CHIPS;
      keyed(chips, [...holders.slice(0, CHIPS), ...(more > 0 ? [[-1, `and ${more} more`, -1, 0, 0]] : [])],
        (holder) => `${holder[1]} ${holder[2]}`,
        (holder) => {
          const node = entry();
          if (holder[0] < 0) return node;
          swatch(node, [look(holder[2]).colour], 1, look(holder[2]).pattern);
          node.addEventListener("pointerenter", () => { shownOf = Number(node.dataset.at); point(); });
          node.addEventListener("pointerleave", () => { shownOf = null; point(); });
          return node;
        },
        (node, [at, name, , full, most]) => {
          node.dataset.at = at;
          setText(node.querySelector(".wb-cells-name"), name);
          setText(node.querySelector("b"), at < 0 ? "" : `${count(full)} of ${count(most)}`);
        });
      // A chip that goes says nothing, and the holders may have other places now.
      if (shownOf !== null) {
        const over = chips.querySelector("li:hover");
        shownOf = over && Number(over.dataset.at) >= 0 ? Number(over.dataset.at) : null;
      }
      const reading = Math.max(0, ...state.pieces.map((piece) => (piece[3] === "session" ? piece[6] : 0)));
      const { free, ...counts } = state.counts;
      const rows = state.cells ? Object.entries({ ...counts, reading, free }) : [];
      keyed(legend, rows, (row) => row[0],
        (row) => { const node = entry(); swatch(node, ...swatches[row[0]]); return node; },
        (node, [kind, cells]) => {
          setText(node.querySelector(".wb-cells-name"), NAMES[kind]);
          setText(node.querySelector("b"), count(cells));
        });
      root.style.opacity = over ? 0.75 : "";
      redraw();
    });
    const watch = new ResizeObserver(() => {
      if (strip.clientWidth === width) return;
      width = strip.clientWidth;
      redraw();
    });
    watch.observe(strip);
    return () => { stop(); watch.disconnect(); };
  },
};

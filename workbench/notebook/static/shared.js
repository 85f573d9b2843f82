// What every panel's script may use; `script()` in panel.py puts it in front of the panel's own.

/** An element with a class and words; words never become markup. */
function make(tag, className = "", words = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (words) node.textContent = words;
  return node;
}

/** Set words, an attribute or a property only where they differ: what did not change is not touched. */
function setText(node, words) {
  const value = words === null || words === undefined ? "" : String(words);
  if (node.textContent !== value) node.textContent = value;
}
function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === "") node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}
function setProperty(node, name, value) {
  if (node[name] !== value) node[name] = value;
}

/**
 * Children of `parent` by key: kept where a key stays (and the focus with it), made, moved, removed.
 * `create(row)` returns an element; `update(element, row)` draws it.
 */
function keyed(parent, rows, key, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const row of rows) {
    const name = String(key(row));
    let node = old.get(name);
    old.delete(name);
    if (!node) {
      node = create(row);
      node.dataset.key = name;
    }
    if (node === place) place = place.nextElementSibling;
    else {
      // Moving an element takes the focus from it, so the ones that go are taken out first.
      while (place && !rows.some((other) => String(key(other)) === place.dataset.key)) {
        const gone = place;
        place = place.nextElementSibling;
        gone.remove();
        old.delete(gone.dataset.key);
      }
      if (node === place) place = place.nextElementSibling;
      else parent.insertBefore(node, place);
    }
    update(node, row);
  }
  for (const node of old.values()) node.remove();
}

/** A bar in `parent`: `[share, colour, words]` each, side by side. */
function bar(parent, parts) {
  parent.classList.add("wb-bar");
  keyed(parent, parts.map((part, at) => [at, ...part]), (part) => part[0],
    () => make("div"), (node, [, share, colour, words]) => {
      const width = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
      if (node.style.width !== width) node.style.width = width;
      if (node.dataset.colour !== colour) node.style.background = node.dataset.colour = colour;
      setAttribute(node, "title", words);
    });
}

/** The colour of the choice or session at this place. */
function colourOf(index) {
  return `var(--wb-${index % 6})`;
}

/** `0.04 ms`, `12.3 ms`, `1.50 s`; a dash where there is no number (as in markup.py). */
function milliseconds(ms) {
  if (ms === null || ms === undefined) return "\u2013";
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms.toFixed(ms < 1 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

/** 12345 as `12,345`. */
function count(number) {
  return Math.round(number).toLocaleString("en-US");
}

/** Draw now and on every new state; returns what ends it. */
function follow(model, draw) {
  const again = () => draw(model.get("state"), model.get("over"));
  model.on("change:state", again);
  model.on("change:over", again);
  again();
  return () => {
    model.off("change:state", again);
    model.off("change:over", again);
  };
}

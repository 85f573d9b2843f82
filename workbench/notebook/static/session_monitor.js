// One line for the engine, and a table with a row per session.

const COLUMNS = [
  ["session", "session", ""],
  ["tokens", "tokens", ""],
  ["rows", "rows", "wb-num"],
  ["rate", "rows/s", "wb-num"],
  ["version", "version", "wb-num"],
  ["waiting", "waiting", "wb-num"],
  ["lag", "ingest lag", "wb-num"],
];
const TIPS = {
  tokens: "tokens it holds, of those it can show at most",
  rate: "rows that became visible, over the last 5 s",
  version: "ticks that questions see",
  waiting: "rows queued and not yet visible",
  lag: "from push to visible: the latest tick, and the worst of the last 5 s",
};

function render({ model, el }) {
  const title = make("div", "wb-title", "Sessions");
  const facts = make("div", "wb-facts");
  const table = make("table", "wb-table wb-sessions");
  const head = table.createTHead().insertRow();
  for (const [name, words, style] of COLUMNS) {
    const cell = make("th", `wb-col-${name} ${style}`.trim(), words);
    cell.scope = "col";
    setAttribute(cell, "title", TIPS[name]);
    head.append(cell);
  }
  const body = table.createTBody();
  const none = make("div", "wb-empty", 'none is open: engine.open("name")');
  const more = make("div", "wb-empty");
  const top = make("div", "wb-head");
  top.append(title, facts);
  el.append(top, table, none, more);

  return follow(model, (state) => {
    if (!state.engine) return;
    drawEngine(facts, state.engine);
    keyed(body, state.rows, (row) => row.name, createSession, drawSession);
    table.hidden = state.rows.length === 0;
    none.hidden = state.rows.length > 0;
    more.hidden = !state.more;
    setText(more, `and ${count(state.more)} more`);
  });
}

function drawEngine(facts, engine) {
  const taken = engine.cells - engine.free;
  const shown = [
    ["", engine.model, `${engine.dtype} on ${engine.device}`],
    ["", count(engine.free), `of ${count(engine.cells)} cells free`],
    ["ingesting", count(engine.ingest_rate), "tokens/s"],
    ["", engine.step_rate.toFixed(engine.step_rate < 10 ? 1 : 0), "steps/s"],
    ["", count(engine.answers), `answers, ${count(engine.flash_hits)} of them from flash`],
  ].map((fact, at) => [at, ...fact]);
  keyed(facts, shown, (fact) => fact[0], () => {
    const fact = make("span");
    fact.append(make("span"), make("b"), make("span"));
    return fact;
  }, (fact, [, before, value, after]) => {
    setText(fact.children[0], before && `${before} `);
    setText(fact.children[1], value);
    setText(fact.children[2], ` ${after}`);
  });
  setAttribute(facts, "title", `${count(taken)} cells are taken`);
}

function createSession() {
  const row = make("tr");
  for (const [name, , style] of COLUMNS) {
    const cell = make("td", `wb-col-${name} ${style}`.trim());
    if (name === "session") cell.append(make("div", "wb-words wb-name"), make("div", "wb-sub wb-words"));
    else if (name === "tokens") cell.append(make("div", "wb-bar"), make("div", "wb-sub wb-words"));
    else if (name === "lag") cell.append(make("div"), make("div", "wb-sub wb-cut"));
    row.append(cell);
  }
  return row;
}

function drawSession(row, session) {
  const [name, tokens, rows, rate, version, waiting, lag] = row.cells;
  setText(name.children[0], session.name);
  setAttribute(name.children[0], "title", session.name);
  const notes = [session.state && session.detail ? `${session.state}: ${session.detail}` : session.state];
  if (session.dropped) notes.push(`${count(session.dropped)} rows dropped`);
  const words = notes.filter(Boolean).join(", ");
  setText(name.children[1], words);
  setAttribute(name.children[1], "title", words);
  name.children[1].hidden = !words;
  const alarming = session.dropped > 0 || ["stands still", "behind"].includes(session.state);
  name.children[1].classList.toggle("wb-alarm", alarming);

  const share = session.tokens / session.capacity;
  bar(tokens.children[0], [[share, session.filling ? "var(--wb-alarm)" : colourOf(session.colour), ""]]);
  const size = `${count(session.tokens)} of ${count(session.capacity)}, ${session.full}`;
  setText(tokens.children[1], size);
  setAttribute(tokens, "title", size);
  setText(rows, count(session.rows));
  setText(rate, session.rows_rate.toFixed(1));
  setText(version, count(session.version));
  setText(waiting, count(session.waiting));
  setText(lag.children[0], milliseconds(session.lag));
  setText(lag.children[1], session.worst === null ? "" : `worst ${milliseconds(session.worst)}`);
}

export default { render };

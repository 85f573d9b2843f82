// A table with a row per flash query, its buttons, and a form that adds one.

const JUST_NOW_MS = 2000; // how long a changed answer is marked
const PAST = 48; // past answers in a strip
const COLUMNS = [
  ["question", "question", ""],
  ["answer", "answer", ""],
  ["age", "age", "wb-num"],
  ["took", "took", "wb-num"],
  ["past", "past answers", ""],
  ["do", "", ""],
];
const TIPS = {
  age: "ticks that the session is ahead of the answer",
  took: "from the start of the evaluation to its answer, in idle time",
};

function render({ model, el }) {
  // Enter and Space are the buttons' and the form's, not the notebook's.
  el.dataset.lmSuppressShortcuts = "true";
  const table = make("table", "wb-table wb-flash");
  const head = table.createTHead().insertRow();
  for (const [name, words, style] of COLUMNS) {
    const cell = make("th", `wb-col-${name} ${style}`.trim(), words);
    cell.scope = "col";
    if (name === "do") cell.setAttribute("aria-label", "actions");
    setAttribute(cell, "title", TIPS[name]);
    head.append(cell);
  }
  const body = table.createTBody();
  const none = make("div", "wb-empty", 'none yet: session.flash("Is the trend up?"), or add one here');
  const more = make("div", "wb-empty");
  const form = createForm(model);
  el.append(make("div", "wb-title", "Flash queries"), table, none, more, form.element);

  const marks = new Map(); // by id: how many changes were seen, and the timer of the mark
  const end = follow(model, (state, over) => {
    if (!state.rows) return;
    const focused = focusedRow(body);
    keyed(body, state.rows, (row) => row.id, () => createRow(model), (node, row) => {
      drawRow(node, row, over);
      mark(marks, node, row);
    });
    refocus(body, focused, form);
    table.hidden = state.rows.length === 0;
    none.hidden = state.rows.length > 0;
    more.hidden = !state.more;
    setText(more, `and ${count(state.more)} more`);
    form.draw(state, over);
  });
  return () => {
    end();
    for (const seen of marks.values()) clearTimeout(seen.timer);
  };
}

// Rows.

function createRow(model) {
  const row = make("tr");
  for (const [name, , style] of COLUMNS) row.append(make("td", `wb-col-${name} ${style}`.trim()));
  const [question, answer, , , past, actions] = row.cells;
  question.append(make("div", "wb-words wb-question"), make("div", "wb-sub wb-where"));
  question.append(make("div", "wb-sub wb-words wb-alarm"));
  question.children[1].append(make("span"), make("span", "wb-chip"));
  answer.append(make("div", "wb-answer"), make("div", "wb-bar"), make("div", "wb-sub"));
  past.append(createStrip());
  const box = make("div", "wb-actions");
  for (const action of ["pause", "remove"]) {
    const button = make("button", "wb-button");
    button.type = "button";
    button.dataset.action = action;
    button.addEventListener("click", () => {
      model.send({ action: button.dataset.action, id: Number(row.dataset.key) });
    });
    box.append(button);
  }
  actions.append(box);
  return row;
}

function drawRow(node, row, over) {
  const [question, answer, age, took, past, actions] = node.cells;
  setText(question.children[0], row.question);
  setAttribute(question.children[0], "title", row.question);
  const [where, chip] = question.children[1].children;
  setText(where, row.name ? `${row.session} \u00b7 ${row.name}` : row.session);
  const state = [row.paused && "paused", row.state && `session ${row.state}`].filter(Boolean).join(", ");
  setText(chip, state);
  chip.hidden = !state;
  setText(question.children[2], row.error && `failed: ${row.error}`);
  setAttribute(question.children[2], "title", row.error);
  question.children[2].hidden = !row.error;
  node.classList.toggle("wb-paused", row.paused);

  drawAnswer(answer, row);
  const ticks = `${count(row.age)} tick${row.age === 1 ? "" : "s"}`;
  setText(age, row.text === null ? "\u2013" : row.age === 0 ? "fresh" : ticks);
  setAttribute(age, "title", row.text === null ? "" : `the answer is as of version ${count(row.version)}`);
  age.classList.toggle("wb-fresh", row.text !== null && row.age === 0);
  const evaluations =
    `${count(row.evaluations)} evaluations; ${count(row.dropped)} given up since newer rows had come`;
  setText(took, milliseconds(row.ms));
  setAttribute(took, "title", evaluations);
  drawStrip(past.firstElementChild, row, evaluations);

  const [pause, remove] = actions.firstElementChild.children;
  const verb = row.paused ? "Resume" : "Pause";
  setText(pause, verb);
  setProperty(pause.dataset, "action", verb.toLowerCase());
  setAttribute(pause, "aria-label", `${verb} \u201c${row.question}\u201d of ${row.session}`);
  setAttribute(pause, "title", row.paused ? "query.resume()" : "query.pause(): the answer stays and ages");
  setText(remove, "Remove");
  setAttribute(remove, "aria-label", `Remove \u201c${row.question}\u201d of ${row.session}`);
  setAttribute(remove, "title", "query.remove()");
  setProperty(pause, "disabled", over);
  setProperty(remove, "disabled", over);
}

/** Of a closed question, one segment per choice and its chance; of an open one, the words. */
function drawAnswer(cell, row) {
  const [words, share, sub] = cell.children;
  const closed = row.chances.length > 0;
  words.classList.toggle("wb-legend", closed);
  share.hidden = row.text === null;
  sub.hidden = row.text !== null;
  setText(sub, row.text === null ? "no answer yet" : "");
  if (closed) {
    const shown = percents(row.chances);
    const parts = row.choices.map((choice, at) => [choice, row.chances[at], at, shown[at]]);
    keyed(words, parts, (part) => `choice ${part[2]}`, () => {
      const part = make("span", "wb-choice");
      part.append(make("i"), make("span"), make("span", "wb-chance"));
      return part;
    }, (part, [choice, , at, chance]) => {
      setProperty(part.children[0].style, "background", colourOf(at));
      setText(part.children[1], choice);
      setAttribute(part.children[1], "title", choice);
      setText(part.children[2], chance);
      setProperty(part, "className", at === row.choice ? "wb-choice answer" : "wb-choice");
    });
    bar(share, parts.map(([choice, part, at, chance]) => [part, colourOf(at), `${choice} ${chance}`]));
    return;
  }
  keyed(words, row.text === null ? [] : ["words", "confidence"], (name) => name,
    (name) => make("span", name === "words" ? "answer wb-words" : "wb-sub"), (part, name) => {
      setText(part, name === "words" ? row.text.trim() || "(empty)" : percent(row.confidence));
      setAttribute(part, "title", name === "words" ? row.text : "confidence");
    });
  const sure = `confidence ${percent(row.confidence)}`;
  bar(share, row.text === null ? [] : [[row.confidence, "var(--wb-quiet)", sure]]);
}

function percent(share) {
  return share === null ? "" : `${Math.round(100 * share)}%`;
}

/** Shares of 1 as whole percents that add up to 100: the largest remainders are rounded up. */
function percents(shares) {
  const whole = shares.map((share) => Math.floor(100 * share + 1e-9));
  const rest = shares.map((share, at) => [100 * share - whole[at], at]).sort((a, b) => b[0] - a[0]);
  const missing = Math.round(100 * shares.reduce((sum, share) => sum + share, 0)) - whole.reduce((a, b) => a + b, 0);
  for (const [, at] of rest.slice(0, Math.max(0, missing))) whole[at] += 1;
  return whole.map((share) => `${share}%`);
}

const SVG = "http://www.w3.org/2000/svg";

function createStrip() {
  const strip = document.createElementNS(SVG, "svg");
  strip.setAttribute("class", "wb-strip");
  strip.setAttribute("viewBox", `0 0 ${PAST * 4} 22`);
  strip.setAttribute("preserveAspectRatio", "none");
  strip.setAttribute("role", "img");
  strip.append(document.createElementNS(SVG, "title"));
  const middle = document.createElementNS(SVG, "path");
  middle.setAttribute("class", "wb-middle");
  strip.append(middle);
  for (let colour = 0; colour < 6; colour += 1) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("fill", `var(--wb-${colour})`);
    strip.append(path);
  }
  return strip;
}

/** Past answers, the newest right, `[colour, percent]` each; of two choices, up or down from the middle. */
function drawStrip(strip, row, evaluations) {
  const two = row.choices.length === 2;
  const paths = ["", "", "", "", "", ""];
  row.past.forEach(([colour, size], index) => {
    const at = 4 * (PAST - row.past.length + index);
    const base = two ? 11 : 21;
    const tall = Math.max(Math.abs(size) * (two ? 0.1 : 0.2), 1.4).toFixed(1);
    paths[colour % 6] += size < 0 ? `M${at} ${base}v${tall}h3v-${tall}z` : `M${at} ${base}v-${tall}h3v${tall}z`;
  });
  paths.forEach((path, colour) => setAttribute(strip.children[colour + 2], "d", path));
  setAttribute(strip.children[1], "d", two && row.past.length ? `M0 11h${PAST * 4}` : "");
  const how = two
    ? `above the line \u201c${row.choices[0]}\u201d, below it \u201c${row.choices[1]}\u201d`
    : "as high as the confidence, a colour per answer";
  const words = row.past.length ? `the last ${row.past.length} answers: ${how} (${evaluations})` : "";
  setText(strip.firstElementChild, words);
  setAttribute(strip, "aria-label", words);
}

/** Mark a row for a moment when its answer has changed since this page drew it. */
function mark(marks, node, row) {
  const seen = marks.get(row.id) ?? { changes: row.changes, timer: 0 };
  marks.set(row.id, seen);
  if (row.changes > seen.changes) {
    clearTimeout(seen.timer);
    node.classList.remove("wb-changed");
    void node.offsetWidth; // begins the fading anew
    node.classList.add("wb-changed");
    seen.timer = setTimeout(() => node.classList.remove("wb-changed"), JUST_NOW_MS);
  }
  seen.changes = row.changes;
}

// The focus: when the row that has it goes, it moves to its neighbour's same button.

function focusedRow(body) {
  const row = body.contains(document.activeElement) ? document.activeElement.closest("tr") : null;
  return row && { row, at: [...body.children].indexOf(row), action: document.activeElement.dataset.action };
}

function refocus(body, focused, form) {
  if (!focused || body.contains(focused.row)) return;
  const next = body.children[Math.min(focused.at, body.children.length - 1)];
  const button = next?.querySelector(`[data-action=${focused.action}]`) ?? next?.querySelector("button");
  (button ?? form.question).focus({ preventScroll: true });
}

// The form.

function createForm(model) {
  const element = make("div", "wb-form");
  element.setAttribute("role", "form");
  element.setAttribute("aria-label", "Add a flash query");
  const session = make("select", "wb-input");
  session.setAttribute("aria-label", "Session");
  const question = make("input", "wb-input wb-grow");
  question.placeholder = "Another question, asked again after every tick";
  question.setAttribute("aria-label", "Question");
  const choices = make("input", "wb-input wb-choices");
  choices.placeholder = "choices: up, down";
  choices.setAttribute("aria-label", "Choices, separated by commas; none for an open question");
  for (const input of [question, choices]) {
    input.type = "text";
    input.autocomplete = "off";
    input.spellcheck = false;
  }
  const submit = make("button", "wb-button wb-add", "Add");
  submit.type = "button";
  submit.title = 'engine.session("...").flash("...", choices=[...])';
  const error = make("div", "wb-error wb-alarm wb-cut");
  error.setAttribute("role", "alert");
  element.append(session, question, choices, submit, error);

  let waiting = ""; // the token of what was sent and is not yet answered
  let sent = [];
  function send() {
    if (waiting) return;
    waiting = `${Date.now()}-${Math.random()}`;
    sent = [question.value, choices.value];
    submit.disabled = true;
    setText(error, "");
    model.send({
      action: "add",
      token: waiting,
      session: session.value,
      question: question.value,
      choices: choices.value,
    });
  }
  submit.addEventListener("click", send);
  for (const input of [question, choices]) {
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      send();
    });
  }

  function draw(state, over) {
    keyed(session, state.sessions, (name) => name, (name) => {
      const option = make("option");
      option.value = name;
      return option;
    }, setText);
    if (waiting && state.added.token === waiting) {
      waiting = "";
      setText(error, state.added.error);
      setAttribute(error, "title", state.added.error);
      if (!state.added.error) {
        // What was typed meanwhile stays, and so does the focus where it has gone meanwhile.
        if (question.value === sent[0]) question.value = "";
        if (choices.value === sent[1]) choices.value = "";
        const at = document.activeElement;
        if (!at || at === document.body || element.contains(at)) {
          question.focus({ preventScroll: true });
        }
      }
    }
    const off = over || state.sessions.length === 0;
    for (const control of [session, question, choices]) setProperty(control, "disabled", off);
    setProperty(submit, "disabled", off || waiting !== "");
  }
  return { element, question, draw };
}

export default { render };

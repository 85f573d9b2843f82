// The step timeline: a row per phase, a bar per step, from `timeline_state`. Time passes here, so that
// an idle engine sends nothing; the window and the freeze are the browser's own.

const ROW = 20, AXIS = 17, TICK_MS = 125, SLOW_MS = 1000;
const COLOURS = { decode: 1, question: 3, ingest: 0, flash: 2, background: 4 };

/** One bar of the state by names. */
function barOf(row) {
  const [began, length, busy, steps, first, tokens, predicted, limit, reason, shares, sharers] = row;
  return { began, ended: began + length, busy, steps, first, tokens, predicted, limit, reason, shares,
    sharers, all: tokens.reduce((sum, n) => sum + n, 0) };
}

function told(state, bar) {
  const steps = bar.steps === 1 ? `step ${count(bar.first)}: ${milliseconds(bar.busy)}`
    : `${count(bar.steps)} steps from ${count(bar.first)}: ${milliseconds(bar.busy)} busy in ${milliseconds(bar.ended - bar.began)}`;
  const lines = [steps];
  lines.push(state.phases.map((phase, at) => [phase, bar.tokens[at]]).filter(([, n]) => n)
    .map(([phase, n]) => `${phase} ${count(n)}`).join(", ") + (bar.all === 1 ? " token" : " tokens"));
  if (bar.shares.length) {
    const others = bar.sharers - bar.shares.length;
    lines.push("for " + bar.shares.map(([at, n]) => `${state.names[at] || "no session"} ${count(n)}`).join(", ")
      + (others > 0 ? ` and ${others} more` : ""));
  }
  if (bar.predicted) lines.push(`predicted ${milliseconds(bar.predicted)}`);
  if (bar.reason) {
    const why = { idle: "no question waits", target: "beside a question", floor: "the least it gets" };
    const reasons = bar.reason.split(", ").map((reason) => why[reason] || reason).join(", ");
    lines.push(bar.steps === 1 ? `ingestion up to ${count(bar.limit)} (${reasons})` : `ingestion: ${reasons}`);
  }
  return lines;
}

export default {
  render({ model, el }) {
    const root = make("div", "wb-steps");
    const head = make("div", "wb-steps-head");
    const words = make("div", "wb-steps-words");
    const set = make("div", "wb-steps-set");
    const group = make("div", "wb-steps-group");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "seconds shown");
    const freeze = make("button", "wb-button wb-steps-freeze", "Freeze");
    freeze.type = "button";
    set.append(group, freeze);
    head.append(make("div", "wb-title", "Steps"), words, set);
    const plot = make("div", "wb-steps-plot");
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-roledescription", "timeline; left and right arrow keys go from step to step");
    const canvas = make("canvas");
    canvas.setAttribute("aria-hidden", "true");
    plot.append(canvas);
    const tip = make("div", "wb-steps-tip");
    tip.hidden = true;
    const spoken = make("div", "wb-steps-said");
    spoken.setAttribute("aria-live", "polite");
    root.append(head, plot, tip, spoken);
    el.append(root);

    let state = null, bars = [], seconds = 10, frozen = null, over = false;
    let skew = 0, width = 0, pointer = null, chosen = null, visible = true;
    const facts = ["busy", "steps/s", "tokens/s", "tokens a step"].map((unit) => {
      const span = make("span");
      span.append(make("b"), ` ${unit}`);
      words.append(span);
      return span.firstChild;
    });

    /** Now, in milliseconds of the state's clock. */
    const clock = () => frozen ?? (over ? state.now : Date.now() - 1e3 * state.base + skew);

    function summarize(now) {
      const from = now - 1e3 * seconds;
      const seen = bars.filter((bar) => bar.ended > from && bar.began < now);
      let busy = 0, steps = 0, tokens = 0;
      for (const bar of seen) {
        const inside = (bar.ended - Math.max(bar.began, from)) / Math.max(bar.ended - bar.began, 1e-6);
        busy += bar.busy * Math.min(inside, 1);
        steps += bar.steps * Math.min(inside, 1);
        tokens += bar.all * Math.min(inside, 1);
      }
      const observed = Math.max(0.25, Math.min(seconds, now / 1e3));  // it began to watch at 0
      const share = Math.min(1, busy / (1e3 * observed));
      setText(facts[0], `${share > 0 && share < 0.01 ? "<1" : Math.round(100 * share)}%`);
      setText(facts[1], few(steps / observed));
      setText(facts[2], few(tokens / observed));
      setText(facts[3], steps ? few(tokens / steps) : "\u2013");
    }
    const few = (number) => (number > 0 && number < 9.95 ? number.toFixed(1) : count(number));

    function paint() {
      if (!state || !state.bars || !width) return;
      const now = clock(), rows = [...state.phases, "idle"];
      const height = rows.length * ROW + AXIS, ratio = window.devicePixelRatio || 1;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.height = `${height}px`;
      }
      const styles = getComputedStyle(root);
      const colour = (name, or) => styles.getPropertyValue(name).trim() || or;
      const faint = colour("--wb-faint", "#6b7280"), line = colour("--wb-line", "#d0d3d8");
      const ink = colour("--wb-ink", "#24292f"), quiet = colour("--wb-quiet", "#7f868e");
      const pen = canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = `11px ${styles.fontFamily}`;
      pen.textBaseline = "middle";
      const left = 76, right = width - 4, across = right - left;
      const x = (ms) => left + across * (1 + (ms - now) / (1e3 * seconds));
      rows.forEach((name, at) => {
        pen.fillStyle = faint;
        pen.textAlign = "right";
        pen.fillText(name, left - 8, at * ROW + ROW / 2);
        pen.fillStyle = line;
        pen.globalAlpha = 0.55;
        pen.fillRect(left, (at + 1) * ROW - 1, across, 1);
        pen.globalAlpha = 1;
      });
      // The axis: seconds before now.
      const every = seconds <= 2 ? 0.5 : seconds <= 10 ? 2 : across < 420 ? 20 : 10;
      pen.fillStyle = faint;
      pen.textBaseline = "top";
      for (let back = 0; back <= seconds; back += every) {
        const at = right - across * back / seconds;
        pen.globalAlpha = 0.35;
        pen.fillRect(Math.round(at) - (back === 0 ? 1 : 0), 0, 1, rows.length * ROW);
        pen.globalAlpha = 1;
        pen.textAlign = back === 0 ? "right" : back === seconds ? "left" : "center";
        pen.fillText(back === 0 ? "now" : `\u2212${back} s`, at, rows.length * ROW + 4);
      }
      pen.save();
      pen.beginPath();
      pen.rect(left, 0, across, rows.length * ROW);
      pen.clip();
      const from = now - 1e3 * seconds;
      let last = Math.max(from, bars.length ? bars[0].began : now);
      const idle = (began, ended, share = 1) => {
        pen.fillStyle = quiet;
        pen.globalAlpha = 0.4 * share;
        pen.fillRect(x(began), rows.length * ROW - 8, x(ended) - x(began), 5);
      };
      bars.forEach((bar, number) => {
        if (bar.ended < from || bar.began > now) return;
        const start = x(bar.began), wide = Math.max(x(bar.ended) - start, 1);
        const dense = Math.min(1, bar.busy / Math.max(bar.ended - bar.began, 1e-6));
        state.phases.forEach((phase, at) => {
          if (!bar.tokens[at]) return;
          const tall = (ROW - 5) * (0.3 + 0.7 * bar.tokens[at] / bar.all);
          pen.globalAlpha = 0.4 + 0.6 * dense;
          pen.fillStyle = colour(`--wb-${COLOURS[phase]}`, "#2a82c9");
          // A hair between neighbours, so that steps can be counted.
          pen.fillRect(start, (at + 1) * ROW - 2 - tall, wide > 3 ? wide - 0.6 : wide, tall);
        });
        if (bar.began > last) idle(last, bar.began);
        if (dense < 0.99) idle(bar.began, bar.ended, 1 - dense);
        last = Math.max(last, bar.ended);
        if (number === chosen) {
          pen.globalAlpha = 1;
          pen.strokeStyle = ink;
          pen.strokeRect(start - 1, 0.5, wide + 2, state.phases.length * ROW - 1);
        }
      });
      // What runs now is only told when it has ended: it is idle once it has been so for a while.
      const longest = bars.slice(-40).reduce((most, bar) => Math.max(most, bar.ended - bar.began), 0);
      if (now - last > Math.max(400, 1.5 * longest)) idle(last, now);
      pen.restore();
      pen.globalAlpha = 1;
      summarize(now);
      hint(x, now);
    }

    /** The bar under the pointer, or the one that the arrow keys have reached. */
    function hint(x, now) {
      let bar = chosen === null ? null : bars[chosen];
      if (pointer) {
        const near = (each) => Math.max(x(each.began) - pointer.x, pointer.x - x(each.ended), 0);
        bar = bars.filter((each) => near(each) <= 2.5 && each.ended > now - 1e3 * seconds)
          .sort((one, other) => near(one) - near(other))[0] ?? null;
      }
      setProperty(tip, "hidden", !bar);
      if (!bar) return;
      const lines = told(state, bar);
      keyed(tip, lines.map((line, at) => [at, line]), (line) => line[0], () => make("div"),
        (node, line) => setText(node, line[1]));
      // Beside the bar and inside of the panel, since nothing shows beyond its edges.
      const [begin, end] = pointer ? [pointer.x, pointer.x] : [x(bar.began), x(bar.ended)];
      const right = end + plot.offsetLeft + 14, left = begin + plot.offsetLeft - 14 - tip.offsetWidth;
      const fits = right + tip.offsetWidth < root.clientWidth - 4;
      tip.style.left = `${fits ? right : Math.max(2, left)}px`;
      const down = plot.offsetTop + (pointer ? pointer.y - tip.offsetHeight / 2 : 4);
      tip.style.top = `${Math.max(0, Math.min(down, root.clientHeight - tip.offsetHeight))}px`;
    }

    for (const choice of [2, 10, 60]) {
      const button = make("button", "wb-button", `${choice} s`);
      button.type = "button";
      button.setAttribute("aria-label", `show the last ${choice} seconds`);
      button.setAttribute("aria-pressed", choice === seconds);
      button.addEventListener("click", () => {
        seconds = choice;
        for (const each of group.children) setAttribute(each, "aria-pressed", each === button);
        paint();
      });
      group.append(button);
    }
    freeze.setAttribute("aria-pressed", "false");
    freeze.setAttribute("aria-label", "freeze the timeline");
    freeze.addEventListener("click", () => {
      if (frozen === null) frozen = clock();
      else {
        frozen = chosen = null;
        take(model.get("state"));
      }
      setAttribute(freeze, "aria-pressed", frozen !== null);
      setAttribute(freeze, "aria-label", frozen === null ? "freeze the timeline" : "follow the engine again");
      setText(freeze, frozen === null ? "Freeze" : "Resume");
      paint();
    });
    plot.addEventListener("pointermove", (event) => {
      const frame = canvas.getBoundingClientRect();
      pointer = { x: event.clientX - frame.left, y: event.clientY - frame.top };
      chosen = null;
      paint();
    });
    plot.addEventListener("pointerleave", () => { pointer = null; paint(); });
    plot.addEventListener("blur", () => { chosen = null; paint(); });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") chosen = null;
      else if (step && bars.length) {
        if (frozen === null) freeze.click();  // what moves cannot be read
        chosen = Math.min(Math.max((chosen ?? bars.length) + step, 0), bars.length - 1);
      } else return;
      event.preventDefault();
      event.stopPropagation();  // not the notebook's own shortcuts
      pointer = null;
      paint();
      setText(spoken, chosen === null ? "" : told(state, bars[chosen]).join("; "));
    });

    function take(next) {
      state = next && next.bars ? next : { phases: Object.keys(COLOURS), names: [], bars: [], base: 0, now: 0 };
      bars = state.bars.map(barOf);
    }
    let fresh = false;
    const stop = follow(model, (next, ended) => {
      over = ended;
      // Of a new state we know when it was made; after a reload, only what the clocks say.
      if (fresh && next.base) skew = next.now - (Date.now() - 1e3 * next.base);
      fresh = true;
      if (frozen === null) take(next);
      paint();
    });
    const watch = new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      paint();
    });
    watch.observe(plot);
    const seen = new IntersectionObserver((entries) => { visible = entries.at(-1).isIntersecting; });
    seen.observe(plot);
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    let empty = false;
    const timer = setInterval(() => {
      if (!visible || document.hidden || frozen !== null || over || !state) return;
      const quiet = !bars.some((bar) => bar.ended > clock() - 1e3 * seconds);
      if (quiet && empty) return;  // nothing moves
      empty = quiet;
      paint();
    }, calm ? SLOW_MS : TICK_MS);
    return () => { stop(); watch.disconnect(); seen.disconnect(); clearInterval(timer); };
  },
};

// The head of the latency plot: its buttons tell the kernel, but for PNG, which the browser makes.

export default {
  render({ model, el }) {
    el.dataset.lmSuppressShortcuts = "true";
    const root = make("div", "wb-latency");
    const head = make("div", "wb-latency-head");
    const set = make("div", "wb-latency-set");
    // What happened is read aloud; what measuring would cost changes with every row, and is not.
    const line = make("div", "wb-latency-line");
    const note = make("span");
    const price = make("span");
    note.setAttribute("aria-live", "polite");
    line.append(note, price);
    head.append(make("div", "wb-title", "Latency and context"), set);
    root.append(head, line);
    el.append(root);

    function button(words, label, act) {
      const node = make("button", "wb-button", words);
      node.type = "button";
      node.setAttribute("aria-label", label);
      node.title = label;
      node.addEventListener("click", act);
      return node;
    }
    function group(label, ...nodes) {
      const node = make("div", "wb-latency-group");
      node.setAttribute("role", "group");
      node.setAttribute("aria-label", label);
      node.append(...nodes);
      return node;
    }
    const choice = make("select", "wb-input");
    choice.setAttribute("aria-label", "session shown");
    choice.addEventListener("change", () => model.send({ action: "session", name: choice.value }));
    const scale = (log) => () => model.send({ action: "scale", log });
    const log = button("log", "logarithmic milliseconds", scale(true));
    const linear = button("linear", "linear milliseconds", scale(false));
    const measure = button("Measure stateless", "", () => {
      model.send({ action: measure.dataset.action });
    });
    const write = (suffix) => () => model.send({ action: "export", suffix });
    const html = button("HTML", "write the plot beside the notebook, as a page", write("html"));
    const parquet = button("Parquet", "write the points beside the notebook", write("parquet"));
    const png = button("PNG", "download a picture of the plot", () => {
      const part = el.closest(".workbench-part, .workbench") || document;
      const camera = part.querySelector('.js-plotly-plot .modebar-btn[data-title*="PNG" i]')
        || part.querySelector('.js-plotly-plot .modebar-btn');
      if (camera) camera.click();
    });
    set.append(choice, group("milliseconds", log, linear), measure,
      group("export", make("span", "", "Export"), html, parquet, png));

    return follow(model, (state, over) => {
      const names = state.sessions || [];
      keyed(choice, ["", ...names], (name) => `-${name}`, (name) => {
        const option = make("option", "", name || "all sessions");
        option.value = name;
        return option;
      }, () => {});
      setProperty(choice, "value", state.session || "");
      setProperty(choice, "hidden", names.length < 2 && !state.session);
      setAttribute(log, "aria-pressed", state.log !== false);
      setAttribute(linear, "aria-pressed", state.log === false);
      const words = state.measuring ? "Stop measuring" : "Measure stateless";
      const cost = state.measuring
        ? "Give the measurement up; flash queries wait for it"
        : `Ask the newest question with nothing kept: ${state.cost || ""}`;
      measure.dataset.action = state.measuring ? "stop" : "measure";
      setText(measure, words);
      setAttribute(measure, "title", cost);
      setAttribute(measure, "aria-label", `${words}. ${cost}`);
      for (const node of [measure, html, parquet, log, linear, choice]) setProperty(node, "disabled", over);
      setText(note, state.note || "");
      setText(price, !state.note && state.cost ? `Measure stateless: ${state.cost}` : "");
      line.classList.toggle("wb-latency-failed", Boolean(state.failed));
    });
  },
};

/* "Try it" on the page that says what HEM is: logits, true class and margin to change; errors and gradients to see. */
"use strict";

(() => {
  const root = document.getElementById("hem-widget");
  if (!root) return;

  const EXAMPLES = {
    "two rivals": { z: [0, 2, 1, 0.2], y: 0, margin: 1 },
    "one rival": { z: [1, 1.5, 0, -3], y: 0, margin: 1 },
    "all equal": { z: [0, 0, 0, 0], y: 0, margin: 1 },
    "right, by the margin": { z: [3, 1, 2, -1], y: 0, margin: 1 },
    "right, but close": { z: [1.5, 1, 0, -1], y: 0, margin: 1 },
  };
  const LIMIT = 4; // of a logit, either way
  const state = { z: [], y: 0, margin: 1 };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const show = (number) => (Math.abs(number) < 0.005 ? 0 : number).toFixed(2).replace("-", "−");
  const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

  const slider = (label, minimum, maximum, change) => {
    const input = make("input", { type: "range", min: minimum, max: maximum, step: 0.1, "aria-label": label });
    input.addEventListener("input", () => change(Number(input.value)));
    return input;
  };
  const bar = (kind) => make("span", { class: `hem-bar hem-${kind}`, "aria-hidden": "true" }, make("i"));
  const cell = (label, value, drawing) =>
    make("div", { class: "hem-cell" }, make("span", { class: "hem-label" }, label), value, drawing);

  const rows = EXAMPLES["two rivals"].z.map((_, j) => {
    const truth = make("input", { type: "radio", name: "hem-true", "aria-label": `class ${j} is the true one` });
    truth.addEventListener("change", () => update({ y: j }));
    const logit = slider(`logit of class ${j}`, -LIMIT, LIMIT, (value) => {
      state.z[j] = value;
      update({});
    });
    const [z, error, hem, ce] = ["", "", "", ""].map(() => make("output", { class: "hem-value" }));
    const bars = { error: bar("error"), hem: bar("gradient"), ce: bar("gradient hem-ce") };
    bars.error.append(make("b"));
    const element = make(
      "div",
      { class: "hem-row", role: "group", "aria-label": `class ${j}` },
      make("label", { class: "hem-class" }, truth, ` class ${j}`),
      cell("logit", z, logit),
      cell("error", error, bars.error),
      cell("HEM’s gradient", hem, bars.hem),
      cell("CE’s gradient", ce, bars.ce),
    );
    return { element, truth, logit, z, error, hem, ce, bars };
  });

  const margin = slider("margin", 0, 3, (value) => update({ margin: value }));
  const marginValue = make("output", { class: "hem-value" });
  const says = make("p", { class: "hem-says", role: "status" });
  const totals = Object.fromEntries(["HEM", "MM", "CE"].map((name) => [name, make("output", {})]));
  const buttons = Object.entries(EXAMPLES).map(([name, example]) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => update({ ...example, z: [...example.z] }));
    return button;
  });

  root.replaceChildren(
    make("div", { class: "hem-examples", role: "group", "aria-label": "examples" }, ...buttons),
    ...rows.map((row) => row.element),
    make("div", { class: "hem-foot" }, cell("margin", marginValue, margin)),
    make(
      "dl",
      { class: "hem-totals" },
      ...Object.entries(totals).flatMap(([name, output]) => [
        make("div", {}, make("dt", {}, name), make("dd", {}, output)),
      ]),
    ),
    says,
  );

  const sign = (element, value) => {
    element.style.setProperty("--size", `${50 * Math.min(1, Math.abs(value))}%`);
    element.classList.toggle("hem-negative", value < 0);
  };

  function update(changes) {
    Object.assign(state, changes);
    const { z, y, margin: m } = state;
    const hem = losses.hem(z, y, m);
    const ce = losses.crossEntropy(z, y);
    const scale = Math.max(4, ...hem.errors);
    rows.forEach((row, j) => {
      row.truth.checked = j === y;
      row.element.classList.toggle("hem-true-class", j === y);
      row.element.classList.toggle("hem-kept", hem.kept[j]);
      row.logit.value = z[j];
      row.z.value = show(z[j]);
      row.error.value = j === y ? "–" : show(hem.errors[j]) + (hem.kept[j] ? ", kept" : "");
      row.hem.value = show(hem.gradient[j]);
      row.ce.value = show(ce.gradient[j]);
      row.bars.error.style.setProperty("--size", `${(100 * hem.errors[j]) / scale}%`);
      row.bars.error.style.setProperty("--mean", `${(100 * hem.mean) / scale}%`);
      sign(row.bars.hem, hem.gradient[j]);
      sign(row.bars.ce, ce.gradient[j]);
    });
    margin.value = m;
    marginValue.value = show(m);
    totals.HEM.value = show(hem.value);
    totals.MM.value = show(losses.multiMargin(z, y, m).value);
    totals.CE.value = show(ce.value);
    const kept = [...z.keys()].filter((j) => hem.kept[j]);
    says.textContent = kept.length
      ? `The mean error is ${show(hem.mean)}. HEM keeps ${kept.length > 1 ? "classes" : "class"} ${list(kept)}` +
        ` and pushes ${kept.length > 1 ? `each down with 1/${kept.length}` : "it down with 1"};` +
        ` it pulls class ${y} up with 1. CE pushes every rival, near or far.`
      : `No rival is inside the margin: HEM is 0 and has no gradient. CE, ${show(ce.value)}, goes on pushing.`;
  }

  update({ ...EXAMPLES["two rivals"], z: [...EXAMPLES["two rivals"].z] });
})();

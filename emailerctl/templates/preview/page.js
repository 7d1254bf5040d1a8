"use strict";
// Everything that comes from a template is put in as text; its HTML is shown by a frame that may
// run nothing, from an answer with a policy of its own.
const $ = (id) => document.getElementById(id);
const state = { templates: [], view: "desktop", mail: null, stamp: null, timer: null, turn: 0 };

async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Preview": "1" },
    body: JSON.stringify(body),
  });
  return answer.json();
}

function current() {
  return state.templates.find((one) => one.name === $("name").value) || state.templates[0];
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function buildInput(schema, value) {
  const isText = schema.type === "string";
  if (schema.enum) {
    const made = document.createElement("select");
    schema.enum.forEach((one) => made.append(option(JSON.stringify(one), String(one))));
    made.value = JSON.stringify(value);
    made.read = () => JSON.parse(made.value);
    return made;
  }
  if (schema.type === "boolean") {
    const made = document.createElement("input");
    made.type = "checkbox";
    made.checked = Boolean(value);
    made.read = () => made.checked;
    return made;
  }
  const isLong = !isText ? ["array", "object"].includes(schema.type) : String(value ?? "").includes("\n");
  const made = document.createElement(isLong ? "textarea" : "input");
  if (!isLong && schema.format === "date") made.type = "date";
  made.value = value === undefined ? "" : isText ? value : JSON.stringify(value, null, 2);
  made.read = () => {
    if (made.value === "") return undefined;
    if (isText) return made.value;
    try {
      return JSON.parse(made.value);
    } catch {
      return made.value;
    }
  };
  return made;
}

function showForm() {
  const one = current();
  const form = $("variables");
  form.replaceChildren();
  for (const [name, schema] of Object.entries(one.schema.properties || {})) {
    const label = document.createElement("label");
    const said = document.createElement("span");
    const isRequired = (one.schema.required || []).includes(name);
    const isSensitive = one.sensitive.includes(name);
    said.textContent = name + (isRequired ? " *" : "") + (isSensitive ? " (sensitive)" : "");
    if (schema.description) said.title = schema.description;
    const input = buildInput(schema, one.examples[name]);
    input.name = name;
    label.append(said, input);
    form.append(label);
  }
  $("locale").replaceChildren(...[one.locale, ...one.locales].map((tag) => option(tag, tag)));
}

function readForm() {
  const variables = {};
  for (const input of $("variables").elements) {
    const value = input.read();
    if (value !== undefined) variables[input.name] = value;
  }
  return variables;
}

async function render() {
  const one = current();
  if (!one) return;
  const turn = ++state.turn;
  $("state").textContent = "…";
  const made = await ask("render", {
    name: one.name, variables: readForm(), locale: $("locale").value,
  });
  if (turn !== state.turn) return; // a later one is under way
  const wrong = new Set(made.faults.map((fault) => fault.pointer.split("/")[2]));
  for (const input of $("variables").elements) input.classList.toggle("wrong", wrong.has(input.name));
  const lines = [
    ...made.faults.map((fault) => ["error", `${fault.pointer} ${fault.detail}`.trim()]),
    ...made.findings.map((found) => [found.level, `${found.file}${found.line ? ":" + found.line : ""} ${found.detail}`]),
  ];
  if (!lines.length) lines.push(["", "Nothing to complain about."]);
  $("findings").replaceChildren(...lines.map(([level, text]) => {
    const item = document.createElement("li");
    item.className = level;
    item.textContent = text;
    return item;
  }));
  $("state").textContent = made.faults.length ? "refused" : made.octets;
  if (made.mail) state.mail = made;
  show();
}

function show() {
  const view = state.view;
  for (const tab of $("views").children) {
    tab.setAttribute("aria-selected", String(tab.dataset.view === view));
  }
  const isPlain = view === "text" || view === "source";
  $("stage").hidden = isPlain;
  $("plain").hidden = !isPlain;
  $("stage").classList.toggle("narrow", view.endsWith("mobile"));
  const mail = state.mail;
  if (!mail) return;
  $("subject").textContent = mail.subject;
  if (isPlain) {
    $("plain").textContent = view === "text" ? mail.text : mail.html;
    return;
  }
  const scheme = view.startsWith("dark") ? "dark" : "light";
  const url = `mail/${mail.mail}?scheme=${scheme}&images=${Number($("images").checked)}`;
  if (!$("mail").src.endsWith(url)) $("mail").src = url;
}

function soon() {
  clearTimeout(state.timer);
  state.timer = setTimeout(render, 150);
}

async function load() {
  const said = await ask("templates");
  const name = $("name").value || location.hash.slice(1);
  const kept = name === $("name").value ? readForm() : {};
  state.stamp = said.stamp;
  state.templates = said.templates;
  $("name").replaceChildren(...said.templates.map((one) => option(one.name, one.name)));
  if (said.templates.some((one) => one.name === name)) $("name").value = name;
  const one = current();
  if (one) {
    one.examples = { ...one.examples, ...kept };
    const locale = $("locale").value;
    showForm();
    if ([one.locale, ...one.locales].includes(locale)) $("locale").value = locale;
  }
  await render();
}

async function watch() {
  try {
    const said = await ask("stamp");
    if (said.stamp !== state.stamp) await load();
  } catch {
    $("state").textContent = "the preview has ended";
  }
  setTimeout(watch, 700);
}

$("name").addEventListener("change", () => {
  location.hash = $("name").value;
  showForm();
  render();
});
$("locale").addEventListener("change", render);
$("images").addEventListener("change", show);
$("variables").addEventListener("input", soon);
$("variables").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", async () => {
  $("variables").replaceChildren();
  await load();
});
$("views").addEventListener("click", (event) => {
  if (event.target.dataset.view) {
    state.view = event.target.dataset.view;
    show();
  }
});
load().then(watch);

// The patients' table, and one patient in a dialog.
import { ask, by, colour, element, table } from "./dom.js";
import { draw } from "./chart.js";
import { change, findings, labels, merge, method, recording, said } from "./enter.js";
import { meaning, moment, percent, word } from "./words.js";

const ON_A_PAGE = 50;
const DRAWN = 1000;
let info = null;
let offset = 0;
let timer = 0;
let last = "";

export function begin(about) {
  info = about;
}

export function enter() {
  leave();
  last = "";
  load();
  by("labels").replaceChildren(...(info.role === "operator" ? [labels(load)] : []));
  timer = setInterval(load, 2000);
}

export function leave() {
  clearInterval(timer);
}

for (const [id, step] of [["patients-previous", -ON_A_PAGE], ["patients-next", ON_A_PAGE]]) {
  by(id).addEventListener("click", () => {
    offset = Math.max(0, offset + step);
    load();
  });
}

// A row that is rebuilt between the press and its release loses the click.
let pressed = false;
addEventListener("pointerdown", () => (pressed = true));
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => (pressed = false));

async function load() {
  if (document.hidden || pressed) return;
  const listed = await ask(`/api/v1/patients?offset=${offset}&limit=${ON_A_PAGE}`).catch(() => null);
  const text = JSON.stringify(listed);
  // What has not changed is left alone, and with it what is focused.
  if (!listed || text === last || pressed) return;
  last = text;
  show(listed);
}

function show({ items, total }) {
  by("patients-pager").hidden = total <= ON_A_PAGE;
  by("patients-previous").disabled = offset === 0;
  by("patients-next").disabled = offset + items.length >= total;
  by("patients-range").textContent = `${offset + 1}–${offset + items.length} / ${total}`;
  const focused = document.activeElement?.dataset?.patient;
  if (!items.length) {
    by("patients-table").replaceChildren(element("p", { class: "empty" }, word("patients.none")));
    return;
  }
  const known = [
    ["P(≥F2)", (row) => row.p_f2_or_more, percent],
    ["P(≥F3)", (row) => row.p_f3_or_more, percent],
    ["P(F4)", (row) => row.p_f4, percent],
    ["FIB-4", (row) => row.fib4, (v) => v.toFixed(2)],
    ["APRI", (row) => row.apri, (v) => v.toFixed(2)],
    ["SWE kPa", (row) => row.swe_kpa, (v) => v.toFixed(1)],
  ].filter(([, of]) => items.some((row) => of(row) != null));
  const columns = [
    { title: word("patients.patient") },
    { title: word("patients.answer") },
    { title: word("patients.confidence") },
    ...known.map(([title]) => ({ title, number: true })),
    { title: word("patients.clips"), number: true },
    { title: word("patients.remarks") },
  ];
  const rows = items.map((row) => [
    element("button", {
      type: "button", class: "link", "data-patient": row.id, onclick: () => open(row),
      "aria-label": word("patients.open", { patient: row.label }),
    }, row.label),
    stage(row.answer),
    confidence(row),
    ...known.map(([, of, text]) => (of(row) == null ? null : text(of(row)))),
    `${row.clips}`,
    remarks(row),
  ]);
  const content = [table(columns, rows)];
  if (!info.name) content.push(element("p", { class: "faint" }, word("patients.hidden")));
  by("patients-table").replaceChildren(...content);
  if (focused) document.querySelector(`[data-patient="${focused}"]`)?.focus();
}

function stage(answer) {
  if (!answer) return "–";
  const badge = element("b", { class: "badge" }, answer);
  badge.style.borderColor = badge.style.color = colour(answer);
  return element("span", {}, badge, ` ${meaning(answer)}`);
}

function confidence({ confidence: p, probabilities }) {
  if (p == null) return null;
  const bar = element("span", { class: "bar-track stacked" }, probabilities.map((each) => {
    const part = element("span", { class: "bar-fill", title: `${each.class} ${percent(each.p)}` });
    part.style.width = `${100 * each.p}%`;
    part.style.background = colour(each.class);
    return part;
  }));
  return element("span", { class: "confidence" }, percent(p), bar);
}

function remarks(row) {
  const all = [];
  if (row.abstention) all.push(word(`abstention.${row.abstention}`));
  for (const { index, stage, model_says } of row.discordances) {
    all.push(word(model_says ? "discordant.yes" : "discordant.no", { index: word(`index.${index}`), stage }));
  }
  return all.join("; ");
}

async function open(row) {
  const dialog = by("patient");
  const chart = element("canvas", { class: "chart tall", role: "img", "aria-label": word("patient.windows") });
  const more = element("p", { class: "faint" });
  const changes = element("div", { class: "changes" });
  const history = element("div", { class: "history" });
  const forms = element("div", { class: "forms" });
  dialog.replaceChildren(
    element("div", { class: "bar" },
      element("h2", { id: "patient-title" }, row.label),
      element("button", { type: "button", onclick: () => dialog.close() }, word("patient.close"))),
    element("p", {}, row.answer ? stage(row.answer) : "", " ", confidence(row), ` ${remarks(row)}`),
    element("h3", {}, word("patient.windows")), chart, more,
    legend(), changes, history, forms,
    element("p", {}, element("a", { class: "button", href: `/api/v1/patients/${row.id}/fhir`, target: "_blank", rel: "noreferrer" }, word("patient.fhir"))));
  if (!dialog.open) dialog.showModal();
  const tellAll = () => {
    changed(changes, row);
    tell(history, row);
  };
  const again = () => setTimeout(tellAll, 500);
  tellAll();
  if (info.role === "operator") enterable(forms, row, again);
  const clips = await ask(`/api/v1/patients/${row.id}/clips?limit=${DRAWN}`).catch(() => null);
  if (!clips) return;
  const recordings = new Map(clips.items.map((clip) => [clip.content, clip.source]));
  if (info.role === "operator" && recordings.size) forms.append(recording([...recordings], again));
  const points = clips.items.map((clip, i) => ({
    x: i + 1, p: clip.probabilities.map((each) => each.p), gap: `${clip.content} ${clip.gaps_before}`,
  }));
  draw(chart, info.model.classes, points, { seconds: false });
  more.textContent = points.length < clips.total
    ? word("patient.of", { total: clips.total, n: points.length })
    : word("tile.windows", { n: clips.total });
}

// What an operator may say of the patient.
async function enterable(forms, row, again) {
  forms.append(element("h3", {}, word("enter.title")), findings(row, again));
  const listed = await ask("/api/v1/patients?limit=1000").catch(() => null);
  const others = (listed?.items ?? []).filter((other) => other.id !== row.id);
  if (others.length) forms.append(merge(row, others, again));
}

// How the answer came to be what it is: every time that it became another.
async function changed(place, row) {
  const log = await ask(`/api/v1/patients/${row.id}/answers`).catch(() => []);
  if (!log.length) return;
  const columns = [
    { title: word("history.when") },
    { title: word("patients.answer") },
    { title: word("patients.confidence"), number: true },
    { title: word("patients.clips"), number: true },
    { title: word("changes.by") },
  ];
  const rows = log.map((line) => [
    moment(new Date(line.time_ms)),
    line.withdrawn ? word("changes.gone") : line.abstention ? word(`abstention.${line.abstention}`) : stage(line.answer),
    line.confidence == null ? null : percent(line.confidence),
    `${line.clips}`,
    word(`cause.${line.cause}`),
  ]);
  place.replaceChildren(element("h3", {}, word("patient.changes")), element("div", { class: "scroll" }, table(columns, rows)));
}

// What was entered about the patient, by whom: corrections among it.
async function tell(place, row) {
  const history = await ask(`/api/v1/patients/${row.id}/history`).catch(() => []);
  if (!history.length) return;
  const columns = ["when", "who", "what", "why"].map((name) => ({ title: word(`history.${name}`) }));
  const rows = history.reverse().map((line) => [
    moment(new Date(line.time_ms)),
    line.actor,
    element(line.withdrawn ? "s" : "span", {}, `${word(`kind.${line.kind}`)}${line.day ? ` ${line.day}` : ""}: ${values(line)}`),
    line.reason,
  ]);
  place.replaceChildren(element("h3", {}, word("patient.history")), element("div", { class: "scroll" }, table(columns, rows)));
  const merged = standing(history.filter((line) => line.kind === "merge"));
  if (info.role === "operator" && merged.length) place.append(...merged.map(({ value }) => unmerge(value, place, row)));
}

// Merges that hold: the newest word about each record comes first.
function standing(lines) {
  const seen = new Set();
  return lines.filter(({ value }) => !seen.has(value.from_id) && seen.add(value.from_id)).filter((line) => !line.withdrawn);
}

function unmerge(value, place, row) {
  const answer = said();
  const body = { id: value.from_id, into_id: value.into_id, withdraw: true };
  const undo = element("button", { type: "button", class: "unmerge", onclick: async () => {
    if (await change(answer, "/api/v1/merges", { method: "POST", body })) setTimeout(() => tell(place, row), 500);
  } }, word("enter.unmerge", { from: value.from, into: value.into }));
  return element("p", {}, undo, answer);
}

function values({ kind, value }) {
  if (kind === "merge") return `${value.from} → ${value.into}`;
  if (kind === "exam") return `${value.content.slice(0, 12)}, ${value.from}–${value.until ?? ""}`;
  if (kind === "elastography") return `${value.kpa} kPa, ${method(value.method)}`;
  if (kind === "pathology") return `${value.stage} ${word(`stage.${value.stage}`)}`;
  return `FIB-4 ${value.fib4.toFixed(2)}, APRI ${value.apri.toFixed(2)} (AST ${value.ast_u_l}, ALT ${value.alt_u_l}, PLT ${value.platelets_10e9_l}, ${word("enter.age")}: ${value.age_years})`;
}

const legend = () => element("ul", { class: "legend" }, info.model.classes.map((name) => {
  const dot = element("span", { class: "dot", "aria-hidden": "true" });
  dot.style.background = colour(name);
  return element("li", {}, dot, ` ${name} ${meaning(name)}`);
}));

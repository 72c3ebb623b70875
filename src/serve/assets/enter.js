// What an operator enters: exams, findings, merges. Forms like any other, so that a
// keyboard is enough; what was refused is told in the server's own words.
import { Refused, ask, element, table } from "./dom.js";
import { has, word } from "./words.js";

function say(place, tone, text) {
  place.textContent = text;
  place.className = `said ${tone}`;
}

// Asks for a change, and says at `place` what came of it.
export async function change(place, path, request) {
  try {
    const answer = await ask(path, request);
    const effects = [...new Set(answer?.effects ?? ["asked"])];
    say(place, "good", effects.map((effect) => word(`effect.${effect}`)).join(" "));
    return true;
  } catch (error) {
    refused(place, error);
    return false;
  }
}

function refused(place, error) {
  say(place, "bad", error instanceof Refused ? error.message : word("connection.off"));
}

export const said = () => element("p", { class: "said", role: "status" });

export const field = (name, title, attributes = {}) =>
  element("label", {}, element("span", {}, title), element("input", { name, autocomplete: "off", ...attributes }));

export const choice = (name, title, options, attributes = {}) =>
  element("label", {}, element("span", {}, title), element("select", { name, ...attributes },
    options.map(([value, text]) => element("option", { value }, text))));

const number = (name, title, max) => field(name, title, { type: "number", min: "0", max, step: "any", inputmode: "decimal" });

const METHODS = { super_sonic: "SuperSonic SWE", mindray_ste: "Mindray STE", mindray_stq: "Mindray STQ" };
export const method = (name) => METHODS[name] ?? word(`method.${name}`);

// A form that is folded until somebody wants it.
function folded(title, name, children, submit) {
  const place = said();
  const form = element("form", { class: "inline", name }, children, element("button", { type: "submit" }, word("enter.save")), place);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const filled = [...new FormData(form)].filter(([, value]) => value !== "");
    if (await submit(Object.fromEntries(filled), place)) form.reset();
  });
  return element("details", {}, element("summary", {}, title), form);
}

// The exam of a source: whose it is from now on, and its end.
export function exam(stream, open, place) {
  const path = `/api/v1/streams/${encodeURIComponent(stream.source)}`;
  const patient = element("input", { name: "patient", required: true, maxlength: 128, "aria-label": word("exam.next"), placeholder: word("exam.next"), autocomplete: "off" });
  const form = element("form", { class: "inline exam" }, patient, element("button", { type: "submit" }, word("exam.begin")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { patient: patient.value };
    const asked = open()
      ? change(place, `${path}/patient`, { method: "PUT", body })
      : change(place, "/api/v1/streams", { method: "POST", body: { ...body, source: stream.source } });
    if (await asked) form.reset();
  });
  form.append(end(stream, place));
  return form;
}

export const end = (stream, place) => element("button", {
  type: "button", class: "end",
  onclick: () => change(place, `/api/v1/streams/${encodeURIComponent(stream.source)}`, { method: "DELETE" }),
}, word("exam.end"));

// Blood test, elastography, pathology of a day.
export function findings(row, done) {
  const parts = [
    field("day", word("enter.day"), { type: "date" }),
    element("fieldset", {}, element("legend", {}, word("kind.blood")),
      number("age_years", word("enter.age"), 120), number("ast_u_l", "AST U/L"), number("alt_u_l", "ALT U/L"),
      number("platelets_10e9_l", word("enter.platelets"))),
    element("fieldset", {}, element("legend", {}, word("kind.elastography")),
      choice("method", word("enter.method"), ["transient", ...Object.keys(METHODS)].map((name) => [name, method(name)])),
      number("kpa", "kPa", 150)),
    element("fieldset", {}, element("legend", {}, word("kind.pathology")),
      choice("stage", "METAVIR", [["", "–"], ...["F0", "F1", "F2", "F3", "F4"].map((stage) => [stage, `${stage} ${word(`stage.${stage}`)}`])])),
    field("reason", word("history.why"), { maxlength: 500 }),
  ];
  return folded(word("enter.findings"), "findings", parts, async ({ day, reason, stage, method, kpa, ...values }, place) => {
    const body = { id: row.id, day, reason, stage };
    const blood = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)]));
    if (Object.keys(blood).length) {
      if (Object.keys(blood).length < 4) {
        say(place, "bad", word("enter.wholeblood"));
        return false;
      }
      body.blood = blood;
    }
    if (kpa) body.elastography = { method, kpa: Number(kpa) };
    const entered = await change(place, "/api/v1/labels", { method: "POST", body });
    if (entered) done();
    return entered;
  });
}

const LARGEST = 4 << 20; // bytes of a table, as the API takes it
const NAMED = 100; // bad rows that are listed

// What was found about many, as a laboratory sends it: a CSV table.
export function labels(done) {
  const bad = element("div", { class: "scroll" });
  const parts = [
    element("p", { class: "faint" }, word("table.lead")),
    field("file", word("table.file"), { type: "file", accept: ".csv,text/csv", required: true }),
    field("reason", word("history.why"), { maxlength: 500 }),
  ];
  const form = folded(word("table.title"), "labels", parts, async ({ file, reason = "" }, place) => {
    bad.replaceChildren();
    if (file.size > LARGEST) {
      say(place, "bad", word("table.large"));
      return false;
    }
    try {
      const path = `/api/v1/labels/table?${new URLSearchParams({ reason })}`;
      const taken = await ask(path, { method: "POST", body: file });
      told(taken, place, bad);
      done();
      return true;
    } catch (error) {
      refused(place, error);
      return false;
    }
  });
  form.append(bad);
  return form;
}

// What is wrong with a row, in the reader's language if there is a word for it.
function wrong({ code, place = "", problem }) {
  const key = `row.${code}`;
  return has(key) ? word(key, { place }) : problem;
}

function told(taken, place, bad) {
  const { bad_rows: rows, columns_not_read: unread } = taken;
  const texts = [word("table.taken", taken)];
  if (rows.length) texts.push(word("table.bad", { n: rows.length }));
  if (unread.length) texts.push(word("table.unread", { columns: unread.join(", ") }));
  say(place, rows.length ? "bad" : "good", texts.join(" "));
  if (!rows.length) return;
  const columns = [{ title: word("table.line"), number: true }, { title: word("table.problem") }];
  bad.append(table(columns, rows.slice(0, NAMED).map((row) => [`${row.line}`, wrong(row)])));
  if (rows.length > NAMED) bad.append(element("p", { class: "faint" }, word("table.more", { n: rows.length - NAMED })));
}

// Two records of one person.
export function merge(row, others, done) {
  const parts = [
    element("p", { class: "faint" }, word("enter.mergelead", { patient: row.label })),
    choice("into_id", word("enter.into"), [["", "–"], ...others.map((other) => [other.id, other.label])], { required: true }),
    field("reason", word("history.why"), { maxlength: 500 }),
  ];
  return folded(word("enter.merge"), "merge", parts, async (body, place) => {
    const entered = await change(place, "/api/v1/merges", { method: "POST", body: { id: row.id, ...body } });
    if (entered) done();
    return entered;
  });
}

// A recording, or a part of it, is somebody else's.
export function recording(recordings, done) {
  const parts = [
    choice("content", word("enter.recording"), recordings.map(([content, source]) => [content, `${source} ${content}`]), { required: true }),
    field("patient", word("enter.whose"), { required: true, maxlength: 128 }),
    field("from", word("enter.from"), { type: "number", min: "0", step: "1" }),
    field("until", word("enter.until"), { type: "number", min: "1", step: "1" }),
    field("reason", word("history.why"), { maxlength: 500 }),
  ];
  return folded(word("enter.exam"), "recording", parts, async ({ from, until, ...body }, place) => {
    if (from) body.from = Number(from);
    if (until) body.until = Number(until);
    const entered = await change(place, "/api/v1/exams", { method: "POST", body });
    if (entered) done();
    return entered;
  });
}

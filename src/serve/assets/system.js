// The system page: the pipeline with its rates, sources, streams, this run.
import { by, drawn, element, table } from "./dom.js";
import { change, end, exam } from "./enter.js";
import { on } from "./feed.js";
import { clock, moment, span, word } from "./words.js";

const OVER = 5; // seconds that rates are taken over
let info = null;
let shown = false;
let history = []; // [seconds, samples]
let streams = [];
let streamsText = "";

export function begin(about) {
  info = about;
  by("add-stream").hidden = info.role !== "operator";
}

export function enter() {
  shown = true;
  streamsText = "";
  about();
  show();
}

export function leave() {
  shown = false;
}

on("metrics", (samples) => {
  history.push([performance.now() / 1000, samples]);
  while (history.length > 2 && history[0][0] < performance.now() / 1000 - OVER) history.shift();
  if (shown) show();
});
on("state", (state) => {
  streams = state.streams;
  if (shown) showStreams();
});

const of = (samples, name, match = {}) => samples.filter((sample) =>
  sample.name === name && Object.entries(match).every(([key, value]) => sample.labels?.[key] === value));
const total = (samples, name, match) => of(samples, name, match).reduce((sum, sample) => sum + sample.value, 0);
const now = () => history.at(-1)?.[1] ?? [];

function rate(name, match) {
  if (history.length < 2) return 0;
  const [[from, before], [to, after]] = [history[0], history.at(-1)];
  return (total(after, name, match) - total(before, name, match)) / (to - from);
}

// Count a second, and the 95th percentile of what was observed lately.
function observed(name) {
  const [[from, before], [to, after]] = [history[0] ?? [0, []], history.at(-1) ?? [0, []]];
  const [old, fresh] = [of(before, name)[0], of(after, name)[0]];
  if (!fresh || to <= from) return { rate: 0, p95: null };
  const since = old ?? { count: 0, buckets: [] };
  const count = fresh.count - since.count;
  let p95 = null;
  if (count > 0) {
    const counts = fresh.buckets.map(([bound, n], i) => [bound, n - (since.buckets[i]?.[1] ?? 0)]);
    p95 = (counts.find(([, n]) => n >= 0.95 * count) ?? counts.at(-1))[0] * 1000;
  }
  return { rate: count / (to - from), p95 };
}

const short = (number) => (number >= 100 ? number.toFixed(0) : number.toFixed(1));
const within = (milliseconds) => (milliseconds == null || !isFinite(milliseconds) ? "–" : `< ${span(milliseconds)}`);

function show() {
  const samples = now();
  const [prepare, queue, infer, aggregate, store] = ["preprocess", "queue", "inference", "aggregate", "store_commit"]
    .map((name) => observed(`hepaflow_${name}_seconds`));
  const lost = rate("hepaflow_frames_dropped_total");
  const nodes = [
    { id: "sources", rate: [rate("hepaflow_frames_used_total"), "node.frames"],
      lines: [["node.streams", total(samples, "hepaflow_stream_up")], ["node.lost", short(lost)], ["node.prepare", within(prepare.p95)]], bad: lost > 0.1 },
    { id: "windows", rate: [rate("hepaflow_windows_total"), "node.clips"],
      lines: [["node.skipped", total(samples, "hepaflow_windows_resumed_total")]] },
    { id: "infer", rate: [rate("hepaflow_predictions_total"), "node.predictions"],
      lines: [["node.queue", total(samples, "hepaflow_clips_in_flight")], ["node.wait", within(queue.p95)], ["node.time", within(infer.p95)]],
      bad: total(samples, "hepaflow_clips_in_flight") > 30 },
    { id: "answers", rate: [total(samples, "hepaflow_patients"), "node.patients"],
      lines: [["node.abstained", total(samples, "hepaflow_abstentions")], ["node.time", within(aggregate.p95)]] },
    { id: "store", rate: [store.rate, "node.commits"], lines: [["node.time", within(store.p95)]] },
  ];
  by("graph").replaceChildren(graph(nodes));
  showSources(samples);
}

function graph(nodes) {
  const upright = by("graph").clientWidth < 760;
  const [w, h, gap] = upright ? [330, 114, 30] : [184, 150, 34];
  const [width, height] = upright
    ? [w, nodes.length * h + (nodes.length - 1) * gap]
    : [nodes.length * w + (nodes.length - 1) * gap, h];
  const svg = drawn("svg", { viewBox: `-4 -4 ${width + 8} ${height + 8}`, role: "img", "aria-label": word("system.graph") });
  nodes.forEach((node, i) => {
    const [x, y] = upright ? [0, i * (h + gap)] : [i * (w + gap), 0];
    const busy = node.rate[0] > 0;
    svg.append(drawn("g", { class: `node ${node.bad ? "bad" : ""} ${busy ? "busy" : ""}`, transform: `translate(${x} ${y})`, "data-node": node.id },
      drawn("rect", { width: w, height: h, rx: 10 }),
      drawn("text", { x: 14, y: 26, class: "title" }, word(`node.${node.id}`)),
      drawn("text", { x: 14, y: 54, class: "rate" }, Number.isInteger(node.rate[0]) ? `${node.rate[0]}` : short(node.rate[0]),
        drawn("tspan", { class: "unit", dx: 5 }, word(node.rate[1]))),
      node.lines.map(([key, value], line) => upright
        ? drawn("text", { x: 14 + (line % 2) * 160, y: 78 + 22 * Math.floor(line / 2), class: "line" }, `${word(key)} ${value}`)
        : drawn("text", { x: 14, y: 82 + 22 * line, class: "line" }, `${word(key)} ${value}`))));
    if (i + 1 < nodes.length) {
      const path = upright ? `M${w / 2} ${y + h + 4}v${gap - 10}m-5 -6l5 6l5 -6` : `M${x + w + 6} ${h / 2}h${gap - 14}m-6 -5l6 5l-6 5`;
      svg.append(drawn("path", { d: path, class: `arrow ${nodes[i].rate[0] > 0 ? "busy" : ""}` }));
    }
  });
  return svg;
}

// How bright a source's windows are, beside the pictures that the model learned from.
function brightness(samples, source) {
  const [seen] = of(samples, "hepaflow_input_brightness", { source });
  const usual = total(samples, "hepaflow_reference_mean", { of: "brightness" });
  return seen?.count ? `${(seen.sum / seen.count).toFixed(2)} (${usual.toFixed(2)})` : null;
}

function showSources(samples) {
  const names = [...new Set(of(samples, "hepaflow_frames_received_total").map((sample) => sample.labels.source))];
  const number = (name) => ({ title: word(`system.${name}`), number: true });
  const reasons = (name, source) => {
    const parts = of(samples, name, { source }).filter((sample) => sample.value > 0);
    return parts.length ? parts.map((sample) => `${sample.value} ${word(`reason.${sample.labels.reason}`)}`).join(", ") : "0";
  };
  by("sources").replaceChildren(table(
    [{ title: word("system.source") }, number("up"), number("received"), number("used"), number("dropped"), number("gaps"), number("interruptions"), number("failures"), number("brightness")],
    names.map((source) => {
      const count = (name) => `${total(samples, name, { source })}`;
      return [source, count("hepaflow_stream_up"), count("hepaflow_frames_received_total"), count("hepaflow_frames_used_total"),
        reasons("hepaflow_frames_dropped_total", source), count("hepaflow_gaps_total"),
        reasons("hepaflow_stream_interruptions_total", source), count("hepaflow_stream_failures_total"),
        brightness(samples, source)];
    })));
}

function showStreams() {
  const text = JSON.stringify(streams.map((stream) => [stream.id, stream.ended_ms, stream.label]));
  // Rebuilt only when something has changed: a form in it may be in use.
  if (text === streamsText) return;
  streamsText = text;
  const may = info.role === "operator";
  const columns = [{ title: word("system.number"), number: true }, { title: word("system.source") }, { title: word("system.patient") }, { title: word("system.status") }];
  if (may) columns.push({ title: "" });
  by("streams").replaceChildren(table(columns, streams.map((stream) => {
    const state = stream.ended_ms ? word("tile.endedat", { time: clock(new Date(stream.ended_ms)) }) : word(stream.live ? "tile.live" : "tile.reading");
    const cells = [`${stream.id}`, stream.source, stream.label, state];
    if (may) cells.push(stream.ended_ms ? "" : actions(stream));
    return cells;
  })));
}

// Cohorts, archives and what is pushed name their patients themselves.
export const names = (source) => ["launch", "file"].includes(info.sources.find((known) => known.name === source)?.kind);

function actions(stream) {
  const place = by("system-message");
  return element("div", { class: "actions" }, names(stream.source) ? exam(stream, () => true, place) : end(stream, place));
}

by("add-stream").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = Object.fromEntries(new FormData(event.target));
  if (!fields.location) delete fields.location;
  if (await change(by("system-message"), "/api/v1/streams", { method: "POST", body: fields })) event.target.reset();
});

function about() {
  const rows = [
    ["about.version", `${info.version} (${info.build.profile}, ${info.build.arch})`],
    ["about.model", info.model.architecture],
    ["about.hash", element("code", {}, info.model.hash.slice(0, 16))],
    ["about.classes", info.model.classes.join(", ")],
    ["about.engine", info.engine],
    ["about.window", word("about.windowtext", { frames: info.window[0], stride: info.window[1] })],
    ["about.since", moment(new Date(info.started_ms))],
    ["about.role", info.name ? `${info.role} (${info.name})` : info.role],
    ["about.api", element("a", { href: "/api/openapi.json" }, "OpenAPI")],
  ];
  by("about").replaceChildren(...rows.map(([key, value]) => element("div", {}, element("dt", {}, word(key)), element("dd", {}, value))));
}

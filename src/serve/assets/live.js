// The live page: a tile a stream.
import { by, colour, element } from "./dom.js";
import { draw } from "./chart.js";
import { exam, said } from "./enter.js";
import { feed, on, want } from "./feed.js";
import { names } from "./system.js";
import { clock, meaning, percent, span, word } from "./words.js";

const ON_A_PAGE = 6;
const STALE = 2500; // milliseconds without a picture
const KEPT = 240; // windows in a chart
const tiles = new Map();
let info = null;
let run = { streams: [] };
let counters = [];
let page = 0;
let attention = false;

export function begin(about) {
  info = about;
  attention = by("attention").checked = localStorage.getItem("attention") === "on";
  want({ attention });
}

export function redraw() {
  tiles.forEach((tile) => tile.root.remove());
  tiles.clear();
  show();
}

by("attention").addEventListener("change", (event) => {
  attention = event.target.checked;
  localStorage.setItem("attention", attention ? "on" : "off");
  for (const tile of tiles.values()) {
    tile.map = null;
    paint(tile);
  }
  want({ attention });
});
for (const [id, step] of [["previous", -1], ["next", 1]]) {
  by(id).addEventListener("click", () => {
    page += step;
    show();
  });
}

// Open streams first, then those that ended last.
function chosen() {
  const order = [...run.streams].sort((a, b) =>
    (a.ended_ms ? 1 : 0) - (b.ended_ms ? 1 : 0) || (b.ended_ms ?? 0) - (a.ended_ms ?? 0) || a.id - b.id);
  const pages = Math.max(1, Math.ceil(order.length / ON_A_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const from = page * ON_A_PAGE;
  const shown = order.slice(from, from + ON_A_PAGE);
  by("pager").hidden = pages < 2;
  by("previous").disabled = page === 0;
  by("next").disabled = page === pages - 1;
  by("range").textContent = word("live.range", { from: from + 1, to: from + shown.length, all: order.length });
  return shown.sort((a, b) => a.id - b.id);
}

function show() {
  const streams = chosen();
  const kept = new Set(streams.map((stream) => stream.id));
  for (const [id, tile] of tiles) {
    if (!kept.has(id)) {
      tile.root.remove();
      tiles.delete(id);
    }
  }
  by("no-streams").hidden = streams.length > 0;
  for (const stream of streams) {
    const tile = tiles.get(stream.id) ?? make(stream);
    tile.stream = stream;
    if (stream.age_ms != null) tile.arrived = performance.now() - stream.age_ms;
  }
  want({ streams: streams.length ? streams.map((stream) => stream.id) : null });
  refresh();
}

function make(stream) {
  const part = {
    status: element("span", { class: "pill" }),
    veil: element("div", { class: "veil", hidden: true }),
    answer: element("div", { class: "answer" }),
    facts: element("dl", { class: "facts" }),
    maptext: element("span", { class: "maptext", hidden: true }),
  };
  const picture = element("canvas", {
    class: "picture", role: "img", width: info.size[0], height: info.size[1],
    "aria-label": word("tile.picture", { source: stream.source }),
  });
  const chart = element("canvas", { class: "chart", role: "img", "aria-label": word("tile.chart") });
  const root = element("article", { class: "tile", "data-stream": stream.id },
    element("div", { class: "head" },
      element("h2", {}, stream.label), element("span", { class: "source" }, `${stream.source} · ${stream.id}`), part.status),
    element("div", { class: "screen" }, picture, part.veil, part.maptext),
    part.answer, chart, part.facts, examOf(stream));
  const tile = { root, part, picture, chart, stream, arrived: null, image: null, map: null, windows: [], rates: [] };
  tiles.set(stream.id, tile);
  const next = [...tiles.values()].find((other) => other.stream.id > stream.id);
  by("tiles").insertBefore(root, next?.root ?? null);
  return tile;
}

// Whose liver the scanner shows next: for an operator, where the source does not say.
function examOf(stream) {
  if (info.role !== "operator" || !stream.live || !names(stream.source)) return "";
  const place = said();
  const open = () => run.streams.some((other) => other.source === stream.source && !other.ended_ms);
  return element("div", { class: "examination" }, exam(stream, open, place), place);
}

on("state", (state) => {
  run = state;
  if (!info) return;
  show();
  for (const tile of tiles.values()) {
    tile.rates.push([state.now_ms, tile.stream.frames]);
    if (tile.rates.length > 4) tile.rates.shift();
  }
});
on("metrics", (samples) => (counters = samples));
on("picture", async (event) => {
  const tile = tiles.get(event.stream);
  if (!tile) return;
  tile.arrived = performance.now() - event.age_ms;
  tile.frame = event.frame;
  const image = new Image();
  image.src = `data:image/jpeg;base64,${event.jpeg}`;
  await image.decode().catch(() => null);
  // Decoding may overtake: only the newest is shown.
  if (tile.frame !== event.frame) return;
  tile.image = image;
  paint(tile);
});
on("predictions", (event) => {
  const tile = tiles.get(event.stream);
  if (!tile) return;
  const last = tile.windows.at(-1);
  const fresh = event.windows.filter((window) => !last || window.frames[1] > last.frames[1]);
  // After the connection was opened again, the server begins with the last ones.
  tile.windows = [...tile.windows, ...fresh].slice(-KEPT);
  refresh();
});
on("attention", (event) => {
  const tile = tiles.get(event.stream);
  if (!tile || !attention) return;
  tile.map = { ...event, layer: layer(event) };
  paint(tile);
});
on("connection", refresh);

// The map as a picture: yellow to red, as opaque as it is strong.
function layer({ rows, columns, levels }) {
  const bytes = Uint8Array.from(atob(levels), (c) => c.charCodeAt(0));
  const canvas = element("canvas", { width: columns, height: rows });
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(columns, rows);
  bytes.forEach((level, i) => {
    const heat = level / 255;
    pixels.data.set([255, Math.round(230 * (1 - heat) + 40 * heat), 30, Math.round(190 * heat)], 4 * i);
  });
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

function paint(tile) {
  const { picture, image, map } = tile;
  if (!image) return;
  const scale = Math.max(1, Math.ceil(448 / image.width));
  const [width, height] = [image.width * scale, image.height * scale];
  if (picture.width !== width) [picture.width, picture.height] = [width, height];
  const pen = picture.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  const shown = attention && map;
  if (shown) pen.drawImage(map.layer, 0, 0, width, height);
  tile.part.maptext.hidden = !attention;
  tile.part.maptext.textContent = shown
    ? word("tile.mapage", { class: info.model.classes[map.class], frame: map.frame })
    : word("tile.nomap");
}

const value = (name, match) => counters
  .filter((sample) => sample.name === name && Object.entries(match).every(([k, v]) => sample.labels?.[k] === v));

function status(tile) {
  const { stream } = tile;
  const age = tile.arrived == null ? null : performance.now() - tile.arrived;
  if (stream.ended_ms) return { kind: "ended", veil: word("tile.endedat", { time: clock(new Date(stream.ended_ms)) }) };
  if (feed.state !== "on") return { kind: "stale", veil: word("tile.lost") };
  if (age == null || age > STALE) {
    const since = age == null ? null : clock(new Date(Date.now() - age));
    const gate = refused(tile);
    if (gate) return { kind: "gated", veil: word("tile.gatedby", { reason: word(`reason.${gate}`) }) };
    return { kind: "stale", veil: since ? word("tile.since", { time: since, age: span(age) }) : word("tile.stale") };
  }
  return { kind: stream.live ? "live" : "reading", veil: null };
}

// Why the gate lets no picture through, if pictures come: the reason that grew last.
function refused({ stream, left }) {
  // What is thinned to the model's pace holds nothing up.
  const grown = (left ?? []).filter(([reason, now, before]) => reason !== "pace" && now > before);
  return stream.live && grown.length ? grown.sort((a, b) => b[1] - b[2] - a[1] + a[2])[0][0] : null;
}

on("metrics", () => {
  for (const tile of tiles.values()) {
    const before = new Map((tile.left ?? []).map(([reason, now]) => [reason, now]));
    const drops = value("hepaflow_frames_dropped_total", { source: tile.stream.source });
    tile.left = drops.map(({ labels: { reason }, value: now }) => [reason, now, before.get(reason) ?? now]);
  }
});

function refresh() {
  if (!info) return;
  for (const tile of tiles.values()) {
    const { part, stream, windows } = tile;
    const { kind, veil } = status(tile);
    part.status.textContent = word(`tile.${kind}`);
    part.status.className = `pill ${kind}`;
    tile.root.dataset.status = kind;
    part.veil.hidden = !veil;
    if (part.veil.textContent !== veil) part.veil.textContent = veil ?? "";
    answer(tile);
    draw(tile.chart, info.model.classes, windows.map((w) => ({ x: w.seconds, p: w.p, gap: w.gaps })));
    facts(tile, stream, kind);
  }
}

function answer({ part, windows }) {
  const last = windows.at(-1);
  if (!last) {
    part.answer.replaceChildren(element("p", { class: "empty" }, word("tile.waiting")));
    return;
  }
  part.answer.replaceChildren(...info.model.classes.map((name, k) => {
    const bar = element("span", { class: "bar-fill" });
    bar.style.width = `${100 * last.p[k]}%`;
    bar.style.background = colour(name);
    return element("div", { class: "class" },
      element("span", { class: "name" }, element("b", {}, name), ` ${meaning(name)}`),
      element("span", { class: "bar-track" }, bar),
      element("span", { class: "p" }, percent(last.p[k])));
  }));
}

function facts({ part, windows, rates, arrived }, stream, kind) {
  const [[from, few], [to, many]] = [rates[0] ?? [0, 0], rates.at(-1) ?? [0, 0]];
  const rate = to > from && kind !== "ended" && kind !== "stale" ? (1000 * (many - few)) / (to - from) : 0;
  const source = { source: stream.source };
  const drops = value("hepaflow_frames_dropped_total", source).filter((sample) => sample.value > 0);
  const gaps = value("hepaflow_gaps_total", source)[0]?.value ?? 0;
  const [x, y, width, height] = stream.crop;
  const latency = windows.at(-1)?.latency_ms;
  const rows = [
    ["tile.rate", rate.toFixed(1)],
    ["tile.latency", latency == null ? "–" : span(latency)],
    ["tile.age", kind === "ended" || arrived == null ? "–" : age(performance.now() - arrived)],
    ["tile.crop", `${width}×${height} / ${stream.picture[0]}×${stream.picture[1]}`],
    ["tile.gaps", gaps],
    ["tile.drops", drops.length ? drops.map((d) => `${d.value} ${word(`reason.${d.labels.reason}`)}`).join(", ") : "0"],
  ];
  part.facts.replaceChildren(...rows.map(([key, text]) =>
    element("div", {}, element("dt", {}, word(key)), element("dd", {}, `${text}`))), cropPicture(stream));
}

const age = (milliseconds) => (milliseconds < 1000 ? word("now") : span(milliseconds));

// Which part of the whole picture is used.
function cropPicture({ picture, crop: [x, y, width, height] }) {
  const pen = element("canvas", { class: "crop", width: 64, height: Math.max(1, Math.round((64 * picture[1]) / picture[0])), role: "img", "aria-label": word("tile.crop") });
  const scale = 64 / picture[0];
  const context = pen.getContext("2d");
  context.fillStyle = "#8886";
  context.fillRect(0, 0, pen.width, pen.height);
  context.fillStyle = "#45b8a6";
  context.fillRect(x * scale, y * scale, width * scale, height * scale);
  return pen;
}

setInterval(refresh, 500);

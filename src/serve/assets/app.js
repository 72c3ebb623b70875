// Begins, logs in, and turns the pages.
import { Refused, ask, by } from "./dom.js";
import { feed, on, start, stop } from "./feed.js";
import * as live from "./live.js";
import * as patients from "./patients.js";
import * as system from "./system.js";
import { current, dress, switchTo, word } from "./words.js";

const pages = { live: { enter: start, leave() {} }, patients, system };
let page = null;
let info = null;
let barred = false; // nothing is shown without a token

function turn() {
  const next = location.hash.slice(1) in pages ? location.hash.slice(1) : "live";
  if (page) pages[page].leave();
  page = next;
  for (const name of Object.keys(pages)) by(`page-${name}`).hidden = name !== page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `hepaflow – ${word(`nav.${page}`)}`;
  pages[page].enter();
}

function speak() {
  dress();
  const other = current() === "zh" ? ["EN", "en"] : ["中文", "zh"];
  [by("language").textContent, by("language").lang] = other;
  by("language").setAttribute("aria-label", current() === "zh" ? "English" : "中文");
  connection(feed.state);
  if (!info) return;
  live.redraw();
  turn();
}

function connection(state) {
  by("connection").textContent = word(`connection.${state}`);
  by("connection").className = `pill ${state}`;
}

by("language").addEventListener("click", () => {
  switchTo(current() === "zh" ? "en" : "zh");
  speak();
});
by("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
});
by("leave").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST" });
  location.reload();
});
by("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/login", { method: "POST", body: new URLSearchParams(new FormData(event.target)) });
  event.target.reset();
  if (answer.ok) {
    barred = false;
    by("login").close();
    begin();
  } else {
    by("login-message").textContent = word(answer.status === 429 ? "login.often" : "login.wrong");
  }
});
// Without a token there is nothing to see behind it.
by("login").addEventListener("close", () => barred && by("login").showModal());
on("connection", connection);
on("state", (state) => connection(state.stopping ? "end" : feed.state));
on("refused", () => ask("/api/v1/info").catch(locked));
addEventListener("hashchange", () => info && turn());

function locked(error) {
  if (!(error instanceof Refused) || error.status !== 401) return false;
  stop();
  barred = true;
  if (!by("login").open) by("login").showModal();
  return true;
}

async function begin() {
  try {
    info = await ask("/api/v1/info");
  } catch (error) {
    if (!locked(error)) setTimeout(begin, 2000);
    return;
  }
  info.size = [info.picture.width, info.picture.height];
  by("synthetic").hidden = !info.model.synthetic;
  by("leave").hidden = !(info.login && info.name);
  for (const each of [live, patients, system]) each.begin(info);
  start();
  speak();
}

document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "dark";
speak();
begin();

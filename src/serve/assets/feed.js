// What the server tells, as it comes. One connection, closed while nobody looks.
const listeners = {};
let source = null;
let wish = { streams: null, attention: false };
let wanted = false;
let retry = 0;

export const feed = { state: "wait", heard: 0 };

export function on(name, listener) {
  (listeners[name] ??= []).push(listener);
}

function tell(name, data) {
  for (const listener of listeners[name] ?? []) listener(data);
}

function become(state) {
  if (feed.state === state) return;
  feed.state = state;
  tell("connection", state);
}

function open() {
  clearTimeout(retry);
  source?.close();
  source = null;
  if (!wanted || document.hidden) return;
  const query = new URLSearchParams({ attention: wish.attention });
  if (wish.streams) query.set("streams", wish.streams.join(","));
  source = new EventSource(`/live?${query}`);
  for (const name of ["state", "metrics", "picture", "predictions", "attention"]) {
    source.addEventListener(name, (event) => {
      feed.heard = performance.now();
      become("on");
      tell(name, JSON.parse(event.data));
    });
  }
  source.addEventListener("error", () => {
    become("off");
    // A refusal closes it for good; a lost connection is opened again by itself.
    if (source?.readyState === EventSource.CLOSED) {
      tell("refused");
      retry = setTimeout(open, 3000);
    }
  });
}

export function start() {
  wanted = true;
  open();
}

export function stop() {
  wanted = false;
  open();
}

export function want(next) {
  const before = JSON.stringify(wish);
  wish = { ...wish, ...next };
  if (wanted && JSON.stringify(wish) !== before) open();
}

document.addEventListener("visibilitychange", open);
// A server that keeps the connection and says nothing is as good as lost.
setInterval(() => {
  if (source && feed.state === "on" && performance.now() - feed.heard > 4000) {
    become("off");
    open();
  }
}, 1000);

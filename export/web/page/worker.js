// The engine in a thread of its own, so that the page stays usable while it draws.
//
// In: {kind: "draw", label, seed, count} or {kind: "stop"}. Out: {kind: "loading", bytes, total}, {kind: "loaded", ms},
// {kind: "step", number, done, steps}, {kind: "picture", number, ...}, {kind: "done", ms}, {kind: "stopped"} or
// {kind: "error", text}.

import { Engine, Stopped } from "./drawing.js";

const base = new URL("./", import.meta.url);
let engine; // a promise: loaded once, and tried again after a failure
let stop = false;

addEventListener("message", async ({ data }) => {
  if (data.kind === "stop") {
    stop = true;
    return;
  }
  stop = false;
  try {
    await draw(data);
  } catch (error) {
    postMessage(error instanceof Stopped ? { kind: "stopped" } : { kind: "error", text: error.message ?? `${error}` });
  }
});

async function draw({ label, seed, count }) {
  const opened = await loaded();
  const began = performance.now();
  for (let number = 0; number < count; number++) {
    const report = (done, steps) => postMessage({ kind: "step", number, done, steps });
    const picture = await opened.draw(label, BigInt(seed), number, report, () => stop);
    postMessage({ kind: "picture", number, ...picture });
  }
  postMessage({ kind: "done", ms: performance.now() - began });
}

async function loaded() {
  if (!engine) {
    const began = performance.now();
    engine = Engine.load(base, (bytes, total) => postMessage({ kind: "loading", bytes, total }));
    engine.then(
      () => postMessage({ kind: "loaded", ms: performance.now() - began }),
      () => (engine = undefined),
    );
  }
  return engine;
}

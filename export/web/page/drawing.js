// An engine in the browser: its graphs in onnxruntime-web, and drawing with them.
//
// `start` makes what the steps carry on, `advance` does some steps, `image_decoder` shows the tokens. Noise, sampling
// and caches are inside the graphs; here is only the loop around them.

import * as ort from "./onnxruntime/ort.js";

const STATE = "state.";
const NEXT = "next.";
const CALL_MS = 150; // of steps in one call: long enough that copying the state does not count, short enough to stop

export class Stopped extends Error {}

export class Engine {
  constructor(description, sessions) {
    this.description = description;
    this.sessions = sessions;
  }

  // Fetch and open everything; `report(bytes, total)` is told how much is there.
  static async load(base, report) {
    const description = await (await found(new URL("engine.json", base), { cache: "no-cache" })).json();
    const { onnxruntime, ...graphs } = description.files;
    const total = Object.values(description.files).reduce((sum, file) => sum + file.bytes, 0);
    let before = 0;
    const fetched = async (file) => {
      const content = await whole(file, base, (bytes) => report(before + bytes, total));
      before += file.bytes;
      return content;
    };
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = await fetched(onnxruntime);
    const sessions = {};
    for (const [name, file] of Object.entries(graphs)) {
      sessions[name] = await ort.InferenceSession.create(await fetched(file), { executionProviders: ["wasm"] });
    }
    return new Engine(description, sessions);
  }

  // The picture of a class (the number of classes: of none) with this seed (a BigInt) and number among those of the
  // seed: its tokens, its pixels (height x width x channels), and milliseconds. `report(done, steps)` is told of steps.
  async draw(label, seed, number, report, stopped) {
    const { start, advance, image_decoder } = this.sessions;
    const steps = this.description.steps;
    const began = performance.now();
    const state = await start.run({ labels: whole64([label], [1]), seed: whole64(seed), first: whole64(number) });
    let tokens;
    for (let done = 0, count = 1; done < steps; ) {
      const taken = Math.min(count, steps - done);
      const before = performance.now();
      const made = await advance.run({ ...state, done: whole64(done), count: whole64(taken) });
      for (const [name, value] of Object.entries(made)) {
        if (name.startsWith(NEXT)) state[STATE + name.slice(NEXT.length)] = value;
      }
      tokens = made.tokens;
      done += taken;
      const each = (performance.now() - before) / taken;
      count = Math.max(1, Math.min(2 * count, Math.round(CALL_MS / each)));
      report(done, steps);
      await turn();
      if (stopped()) throw new Stopped();
    }
    if (tokens.data.some((token) => token < 0n)) throw new Error("the model's logits hold NaN; export the site again");
    const drawn = performance.now();
    const { images } = await image_decoder.run({ tokens });
    return { tokens: tokens.data, pixels: images.data, drawMs: drawn - began, decodeMs: performance.now() - drawn };
  }
}

// A tensor of whole numbers, by default a single one.
function whole64(values, sizes = []) {
  const list = Array.isArray(values) ? values : [values];
  return new ort.Tensor("int64", BigInt64Array.from(list, (value) => BigInt.asIntN(64, BigInt(value))), sizes);
}

// Let messages in.
function turn() {
  return new Promise((resolve) => setTimeout(resolve));
}

async function found(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error(`${url.pathname}: cannot be fetched; is there a connection?`);
  }
  if (!response.ok) throw new Error(`${url.pathname}: the server says ${response.status} ${response.statusText}`);
  return response;
}

// A file's bytes; `report` is told how many are there. Its hash is checked where the page is served securely.
async function whole(file, base, report) {
  const url = new URL(file.url, base);
  const reader = (await found(url)).body.getReader();
  const content = new Uint8Array(file.bytes);
  let filled = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (filled + part.value.length > content.length) break;
    content.set(part.value, filled);
    filled += part.value.length;
    report(filled);
  }
  const damaged = new Error(`${url.pathname}: is not what was exported; reload the page, or export the site again`);
  if (filled !== content.length) throw damaged;
  if (globalThis.crypto?.subtle) {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    if (Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("") !== file.sha256) throw damaged;
  }
  return content;
}

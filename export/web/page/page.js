// What a visitor sees and does; all drawing is in worker.js.

const element = (id) => document.getElementById(id);
const form = element("form");
const status = element("status");
const progress = element("progress");
const pictures = element("pictures");
const worker = new Worker("worker.js", { type: "module" });
const MOST = 2n ** 64n; // seeds that there are

let engine; // what engine.json says
let asked; // what is being drawn
let frames = [];

worker.addEventListener("message", ({ data }) => heard[data.kind](data));
worker.addEventListener("error", (event) => {
  event.preventDefault();
  fail(`This browser cannot run the page (${event.message || "its worker did not start"}).`);
});

const heard = {
  loading({ bytes, total }) {
    show(bytes, total);
    say(`Loading the model: ${megabytes(bytes)} of ${megabytes(total)} MB`);
  },
  loaded({ ms }) {
    say(`Loaded in ${seconds(ms)} s`);
  },
  step({ number, done, steps }) {
    show(number * steps + done, asked.count * steps);
    const which = asked.count > 1 ? `picture ${number + 1} of ${asked.count}, ` : "";
    say(`Drawing: ${which}step ${done} of ${steps}`);
  },
  picture(drawn) {
    fill(frames[drawn.number], drawn);
  },
  done({ ms }) {
    end(`${asked.count === 1 ? "1 picture" : `${asked.count} pictures`} in ${seconds(ms)} s`);
  },
  stopped() {
    end("Stopped.");
  },
  error({ text }) {
    fail(text);
  },
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (checkSeed()) draw();
});
element("seed").addEventListener("input", checkSeed);
element("another").addEventListener("click", () => {
  element("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  checkSeed();
});
element("stop").addEventListener("click", () => {
  element("stop").disabled = true;
  worker.postMessage({ kind: "stop" });
});

open();

async function open() {
  try {
    const response = await fetch("engine.json", { cache: "no-cache" });
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    engine = await response.json();
  } catch (error) {
    const hint = location.protocol === "file:" ? "open it from a web server, such as  python -m http.server" : error.message;
    fail(`The page cannot read engine.json: ${hint}.`);
    return;
  }
  const { name, classes, files } = engine;
  document.title = `${name}: drawn in your browser`;
  element("name").textContent = name;
  const total = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  element("size").textContent = `The first picture loads ${megabytes(total)} MB.`;
  const list = element("label");
  list.append(...classes.map((text, label) => new Option(text, label)));
  if (classes.length) list.append(new Option("(no class)", classes.length));
  element("class").hidden = !classes.length;
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    const field = { class: list, seed: element("seed"), count: element("count") }[key];
    if (field) field.value = value;
  }
  element("facts").textContent =
    `${engine.parameters.toLocaleString("en")} parameters, ${engine.steps} steps ${engine.order}, ` +
    `pictures of ${engine.picture[1]}x${engine.picture[0]}; onnxruntime-web ${engine.onnxruntime}; ` +
    `manifest ${engine.manifest.slice(0, 12)}`;
  element("draw").disabled = false;
  say("Ready.");
}

function draw() {
  const label = engine.classes.length ? Number(element("label").value) : 0;
  const seed = element("seed").value.trim();
  const count = Number(element("count").value);
  asked = { label, seed, count, name: engine.classes[label] ?? "no class" };
  const address = new URLSearchParams({ ...(engine.classes.length && { class: label }), seed, count });
  history.replaceState(null, "", `#${address}`);
  frames = Array.from({ length: count }, (_, number) => frame(number));
  pictures.replaceChildren(...frames);
  element("draw").disabled = true;
  element("stop").disabled = false;
  progress.hidden = false;
  show(0, 1);
  status.classList.remove("wrong");
  say("Starting.");
  worker.postMessage({ kind: "draw", label, seed, count });
}

// An empty place for a picture.
function frame(number) {
  const [height, width] = engine.picture;
  const made = element("frame").content.firstElementChild.cloneNode(true);
  const canvas = made.querySelector("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.setAttribute("aria-label", `picture ${number + 1}, not drawn yet`);
  return made;
}

function fill(made, { number, pixels, drawMs, decodeMs }) {
  const [height, width, channels] = engine.picture;
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * pixel + channel] = pixels[channels * pixel + Math.min(channel, channels - 1)];
    }
    image.data[4 * pixel + 3] = 255;
  }
  const canvas = made.querySelector("canvas");
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", `${asked.name}, seed ${asked.seed}, picture ${number + 1}`);
  made.querySelector(".time").textContent = `${seconds(drawMs + decodeMs)} s`;
  const link = made.querySelector("a");
  link.href = canvas.toDataURL("image/png");
  link.download = `${engine.name}-${asked.label}-${asked.seed}-${number}.png`;
  link.setAttribute("aria-label", `Save picture ${number + 1}`);
  link.hidden = false;
}

function checkSeed() {
  const field = element("seed");
  const text = field.value.trim();
  const good = /^\d{1,20}$/.test(text) && BigInt(text) < MOST;
  field.setCustomValidity(good ? "" : `A whole number from 0 to ${MOST - 1n}`);
  return field.reportValidity();
}

function show(done, all) {
  progress.max = all;
  progress.value = done;
}

function say(text) {
  status.textContent = text;
}

function end(text) {
  progress.hidden = true;
  element("stop").disabled = true;
  element("draw").disabled = false;
  say(text);
}

function fail(text) {
  end(text);
  element("draw").disabled = !engine;
  status.classList.add("wrong");
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

function seconds(ms) {
  return (ms / 1000).toFixed(ms < 9950 ? 2 : 1);
}

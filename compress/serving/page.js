"use strict";

const SMALL = 64; // sides of up to so many pixels are shown as squares, not blurred
const LARGE = 200; // from this width on pictures get wide columns
const find = (id) => document.getElementById(id);
const WORDS = { cfg_scale: "Guidance", temperature: "Temperature", top_k: "Top k", top_p: "Top p", steps: "Steps" };
const LIMITS = {
  cfg_scale: { min: 0, step: "any" }, temperature: { min: 0, step: "any" }, top_k: { min: 0, step: 1 },
  top_p: { min: 0, max: 1, step: "any" }, steps: { min: 1, step: 1 },
};

let engine = null;

function made(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function nameOf(label) {
  if (label === engine.classes) return "no class";
  return engine.class_names.length ? engine.class_names[label] : String(label);
}

function show(described) {
  engine = described;
  const { width, height, channels } = engine.picture;
  document.title = `Draw with ${engine.name}`;
  find("title").textContent = `Draw with ${engine.name}`;
  const classes = engine.classes ? `, ${engine.classes} classes` : "";
  find("about").textContent = `${width} by ${height} pixels in ${channels === 1 ? "grey" : "colour"}${classes}`;
  if (engine.text) {
    find("error").textContent = "This engine draws texts. Their features come from a text encoder; use POST /generate.";
    return;
  }
  if (engine.classes) {
    const labels = [...Array(engine.classes + 1).keys()];
    find("label").append(...labels.map((label) => made("option", { value: label }, nameOf(label))));
    find("labels").hidden = false;
  }
  find("count").max = engine.most_pictures;
  find("count").value = Math.min(4, engine.most_pictures);
  for (const [name, value] of Object.entries(engine.sampling)) {
    if (!(name in WORDS)) continue; // the others are for POST /generate
    const id = `sampling-${name}`;
    const input = made("input", { id, name, type: "number", placeholder: String(value), ...LIMITS[name] });
    find("sampling").append(made("div", { className: "field" }, made("label", { htmlFor: id }, WORDS[name]), input));
  }
  find("form").hidden = false;
}

function wish() {
  const asked = { count: find("count").valueAsNumber };
  if (engine.classes) asked.label = Number(find("label").value);
  for (const input of find("sampling").querySelectorAll("input")) {
    if (input.value !== "") asked[input.name] = input.valueAsNumber;
  }
  const text = JSON.stringify(asked);
  const seed = find("seed").value.trim().replace(/^0+(?=.)/, "");
  return seed ? `${text.slice(0, -1)},"seed":${seed}}` : text; // a seed may have more digits than a number here keeps
}

function picture(data, number, answer, seed) {
  const what = engine.classes ? `${nameOf(answer.label)}, ` : "";
  const alt = `${what}seed ${seed}, picture ${number + 1}`;
  const { width, height } = engine.picture;
  const source = `data:image/png;base64,${data}`;
  const image = made("img", { src: source, alt, width, height, className: Math.min(width, height) <= SMALL ? "small" : "" });
  const name = `${engine.name}-${answer.label}-${seed}-${number}.png`;
  const link = made("a", { href: source, download: name }, "Save");
  link.setAttribute("aria-label", `Save ${alt}`);
  return made("figure", {}, image, made("figcaption", {}, `Picture ${number + 1} · `, link));
}

async function draw(event) {
  event.preventDefault();
  find("draw").disabled = true;
  find("error").textContent = "";
  find("status").textContent = "Drawing …";
  try {
    const headers = { "Content-Type": "application/json", Accept: "application/json" };
    const response = await fetch("generate", { method: "POST", headers, body: wish() });
    const text = await response.text();
    const answer = JSON.parse(text);
    if (!response.ok) throw new Error(answer.error);
    const seed = /"seed":(\d+)/.exec(text)[1];
    const count = answer.pictures.length;
    find("status").textContent =
      `${count} ${count === 1 ? "picture" : "pictures"}${engine.classes ? ` of ${nameOf(answer.label)}` : ""}, ` +
      `seed ${seed}, ${(1000 * answer.seconds).toFixed(0)} ms`;
    find("drawn").classList.toggle("large", engine.picture.width >= LARGE);
    find("drawn").replaceChildren(...answer.pictures.map((each, number) => picture(each, number, answer, seed)));
    find("drawn").scrollIntoView({ block: "nearest" });
  } catch (error) {
    find("status").textContent = "";
    find("error").textContent = error instanceof TypeError ? "The service does not answer." : error.message;
  } finally {
    find("draw").disabled = false;
  }
}

find("form").addEventListener("submit", draw);
fetch("engine")
  .then((response) => response.json())
  .then(show)
  .catch(() => { find("error").textContent = "The service does not answer; load the page again."; });

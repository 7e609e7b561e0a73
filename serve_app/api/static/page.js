"use strict";

const TYPING_PAUSE = 250; // ms
const POLL = 1000; // ms
const MINUTE = 60; // polls in the picture

const find = (id) => document.getElementById(id);
// The page may stand under a prefix, with or without a slash at its end.
const base = location.pathname.replace(/\/+$/, "");

let info = null;
let recipes = []; // those that fit the model
let running = null; // the AbortController of the request under way
let pause = 0;
let last = null; // the figures of the last poll
const history = [];

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

const round = (value, digits = 0) =>
  value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

async function ask(path, content, signal) {
  const headers = {};
  if (find("key").value) headers.Authorization = `Bearer ${find("key").value}`;
  const options = { headers, signal };
  if (content) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(content) });
  }
  const answer = await fetch(base + path, options);
  if (answer.status === 401) find("keyform").hidden = false;
  if (!answer.ok) {
    const failure = await answer.json().catch(() => ({}));
    const error = new Error(`${answer.status}: ${failure.error ?? answer.statusText}`);
    error.wait = Number(answer.headers.get("Retry-After")); // seconds; NaN where it is a date
    throw error;
  }
  return answer;
}

function say(message, isBad = false) {
  find("status").textContent = message;
  find("status").className = isBad ? "bad" : "";
}

async function start() {
  try {
    const stats = await (await ask("/stats")).json();
    const names = Object.keys(stats.models);
    find("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === stats.default)));
    find("model").hidden = names.length < 2;
    await choose();
  } catch (error) {
    say(error.message, true);
  }
}

async function choose() {
  info = await (await ask(`/info?model=${encodeURIComponent(find("model").value)}`)).json();
  const untrained = info.model_id.startsWith("builtin:") ? ", untrained: its numbers mean nothing" : "";
  find("facts").textContent =
    `${info.model_id} (${info.model_dtype}, width ${info.model_dim}, at most ${info.max_input_length} tokens${untrained})`;
  last = null;
  history.length = 0;
  await listRecipes();
  await encode();
}

async function listRecipes() {
  const found = await (await ask(`/recipes?model=${encodeURIComponent(find("model").value)}`)).json();
  recipes = found.recipes;
  const chosen = found.default ?? "none";
  find("recipe").replaceChildren(new Option("none", "none", false, chosen === "none"), ...recipes.map((recipe) => {
    const option = new Option(recipe.is_default ? `${recipe.name} (the service's own)` : recipe.name, recipe.name);
    return Object.assign(option, { selected: recipe.name === chosen, disabled: recipe.reason !== null, title: recipe.reason ?? "" });
  }));
  explainRecipe();
}

function explainRecipe() {
  const recipe = recipes.find((one) => one.name === find("recipe").value);
  find("about").textContent = recipe ? `${recipe.description}. ${recipe.notes}` : "";
  find("made").hidden = !recipe;
  find("made-by").textContent = recipe?.name ?? "";
}

// Tokens and vectors of what stands in the box; whatever is under way for an older text is dropped.
async function encode() {
  if (!info) return;
  clearTimeout(pause);
  running?.abort();
  const controller = (running = new AbortController());
  const texts = find("captions").value.split("\n").filter((text) => text.trim());
  if (!texts.length) {
    show([], []);
    return say("");
  }
  try {
    const request = { inputs: texts, model: find("model").value };
    const [pieces, embedded, made] = await Promise.all([
      ask("/tokenize", request, controller.signal).then((answer) => answer.json()),
      embed(request, controller.signal),
      prepare(texts, controller.signal),
    ]);
    show(texts, pieces, embedded.vectors, made);
    say(embedded.report);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error.wait > 0 ? `${error.message}; asking again in ${error.wait} s` : error.message, true);
    if (error.wait > 0) pause = setTimeout(encode, 1000 * error.wait);
  }
}

// What the chosen recipe makes of the captions.
async function prepare(texts, signal) {
  const recipe = find("recipe").value;
  if (recipe === "none") return [];
  return (await ask("/prepare", { texts, recipe, model: find("model").value }, signal)).json();
}

async function embed(request, signal) {
  const begin = performance.now();
  const answer = await ask("/embed", { ...request, truncate: true }, signal);
  const vectors = await answer.json();
  const seconds = performance.now() - begin;
  const inside = answer.headers.get("x-total-time");
  const tokens = answer.headers.get("x-compute-tokens");
  return { vectors, report: `${tokens} tokens encoded in ${inside} ms, ${round(seconds, 1)} ms with the way there and back` };
}

function show(texts, pieces, vectors = [], made = []) {
  document.querySelector("main").classList.remove("stale");
  find("texts").replaceChildren(...pieces.map(showText));
  find("prompts").replaceChildren(...made.map(showPrompt));
  find("matrix").replaceChildren(...(vectors.length ? showMatrix(texts, vectors) : []));
}

function showText(pieces, index) {
  const limit = info.max_input_length;
  const isCut = pieces.length > limit;
  const head = make("div", undefined, "head");
  const meter = make("meter");
  Object.assign(meter, { max: limit, value: Math.min(pieces.length, limit) });
  head.append(make("span", index + 1, "number"), make("span", `${pieces.length} tokens`, "length"), meter);
  if (isCut) head.append(make("span", `cut to ${limit}`, "cut"));
  // The end token stays when a text is cut.
  const dropped = (place) => isCut && place >= limit - 1 && place < pieces.length - 1;
  const list = make("div", undefined, "pieces");
  list.append(...pieces.map((piece, place) => showPiece(piece, dropped(place))));
  const item = make("li");
  item.append(head, list);
  return item;
}

const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

function showPrompt(caption, index) {
  const head = make("div", undefined, "head");
  head.append(
    make("span", index + 1, "number"),
    make("span", `${count(caption.rows, "row")} kept, ${count(caption.pads, "pad")} computed`, "rows"));
  if (caption.truncated) head.append(make("span", `cut from ${caption.tokens} tokens`, "cut"));
  const texts = caption.texts.map((text) => make("p", text || "(empty)", text ? "made" : "made none"));
  const item = make("li");
  item.append(head, ...(texts.length ? texts : [make("p", "nothing is encoded", "made none")]));
  return item;
}

function showPiece(piece, isDropped) {
  const element = make("span", piece.text, isDropped ? "dropped" : piece.special ? "special" : "");
  element.title = `id ${piece.id}`;
  return element;
}

function showMatrix(texts, vectors) {
  const corner = make("tr");
  corner.append(make("td"), ...texts.map((_, column) => heading(column + 1, "col")));
  const head = make("thead");
  head.append(corner);
  const body = make("tbody");
  body.append(...vectors.map((vector, row) => showRow(texts, vectors, vector, row)));
  return [head, body];
}

function showRow(texts, vectors, vector, row) {
  const line = make("tr");
  const title = heading(`${row + 1} ${texts[row]}`, "row");
  title.title = texts[row];
  line.append(title, ...vectors.map((other) => showCosine(dot(vector, other))));
  return line;
}

function heading(text, scope) {
  return Object.assign(make("th", text), { scope });
}

// Vectors come with unit length.
const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);

function showCosine(value) {
  const cell = make("td", value.toFixed(2).replace("-", "\u2212"));
  cell.style.setProperty("--size", Math.min(1, Math.abs(value)));
  cell.style.setProperty("--hue", value < 0 ? "var(--warm)" : "var(--accent)");
  return cell;
}

async function poll() {
  if (!document.hidden && info) {
    try {
      showFigures(await (await ask("/stats")).json());
    } catch (error) {
      find("replica").textContent = `no figures (${error.message})`;
    }
  }
  setTimeout(poll, POLL);
}

function showFigures(stats) {
  const now = { ...stats.models[find("model").value], replica: stats.replica, time: performance.now() };
  const before = last?.replica === now.replica ? last : null;
  last = now;
  const rate = (name) => (before ? (1000 * (now[name] - before[name])) / (now.time - before.time) : 0);
  history.push(rate("tokens"));
  if (history.length > MINUTE) history.shift();
  drawRates();
  find("replica").textContent = `replica ${now.replica}${now.is_healthy ? "" : ", unhealthy"}`;
  const looked = now.cache_hits + now.cache_misses;
  const figures = {
    "Waiting": `${round(now.queued_texts)} texts, ${round(now.queued_tokens)} tokens`,
    "Running": `${round(now.running_tokens)} tokens`,
    "Last batch": `${round(now.last_batch_texts)} texts, ${round(now.last_batch_tokens)} tokens`,
    "Tokens a second": round(rate("tokens")),
    "Batches": round(now.batches),
    "Wait of a text": now.texts ? `${round((1000 * now.seconds_queued) / now.texts, 1)} ms` : "–",
    "Time of a batch": now.batches ? `${round((1000 * now.seconds_computing) / now.batches, 1)} ms` : "–",
    "From the cache": looked ? `${round((100 * now.cache_hits) / looked)} %` : "–",
    "Shared in flight": round(now.coalesced),
  };
  find("figures").replaceChildren(
    ...Object.entries(figures).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

function drawRates() {
  const top = Math.max(1, ...history);
  const from = MINUTE - history.length;
  const points = history.map((value, place) => `${from + place} ${20 - (18 * value) / top}`);
  find("line").setAttribute("d", `M${points.join("L")}`);
  find("area").setAttribute("d", `M${from} 20L${points.join("L")}L${MINUTE - 1} 20Z`);
}

find("captions").addEventListener("input", () => {
  document.querySelector("main").classList.add("stale");
  clearTimeout(pause);
  pause = setTimeout(encode, TYPING_PAUSE);
});
find("recipe").addEventListener("change", () => {
  explainRecipe();
  encode();
});
find("model").addEventListener("change", () => choose().catch((error) => say(error.message, true)));
find("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  find("keyform").hidden = true;
  start();
});
find("docs").href = `${base}/docs`;
start();
poll();

// The search page. The address holds the whole query; one request gives all that is drawn.
// Data are inserted only as text and attributes, never as markup.

const TOP = 20; // hits of a list at first
const CANDIDATES = 100;
const SLOW = 400; // milliseconds after which the page says that it waits
const STEPS = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000]; // of candidates, up to the limit
const STAGES = { text: "text", first_stage: "first stage", reading: "reading", scoring: "scoring" };

const at = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");

let info; // of the index, from /v1/info
let asking; // AbortController of the running request
let waiting; // timer of the line that says so

// ---- the query, in the address ----------------------------------------------------------------

const inAddress = () => (new URLSearchParams(location.search).get("q") ?? "").trim();

function asked() {
  const given = new URLSearchParams(location.search);
  const number = (name) => {
    const value = Number(given.get(name));
    return Number.isInteger(value) && value > 0 ? value : null;
  };
  return {
    q: inAddress(),
    k: Math.min(number("k") ?? CANDIDATES, info.max_k),
    tokens: info.token_budgets.includes(number("tokens")) ? number("tokens") : info.default_tokens,
    top: Math.min(number("top") ?? TOP, info.max_top),
    fold: given.get("fold") !== "0", // near duplicates into one hit
  };
}

function address({ q, k, tokens, top, fold }) {
  const said = new URLSearchParams();
  if (q) said.set("q", q);
  if (k !== Math.min(CANDIDATES, info.max_k)) said.set("k", k);
  if (tokens !== info.default_tokens) said.set("tokens", tokens);
  if (top !== Math.min(TOP, info.max_top)) said.set("top", top);
  if (!fold) said.set("fold", "0");
  return addressOf(said);
}

/** The page's address with parameters. */
const addressOf = (said) => (`${said}` ? `${location.pathname}?${said}` : location.pathname);

function ask(changes) {
  const next = { ...asked(), ...changes };
  if (address(next) !== location.pathname + location.search) {
    history.pushState(null, "", address(next));
  }
  return answer();
}

// ---- requests ---------------------------------------------------------------------------------

class Problem extends Error {}

async function get(path, signal) {
  let reply;
  try {
    reply = await fetch(path, { signal, headers: { Accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server can’t be reached. Is edje serve still running?");
  }
  const body = await reply.json().catch(() => null);
  if (reply.ok && body !== null) return body;
  const said = body?.error?.message ?? body?.message;
  if (reply.status === 401) {
    throw new Problem(
      "The server needs its token. Open this page with the address that edje serve has printed, " +
        "followed by /?token= and the token.",
    );
  }
  if (reply.status === 429) {
    throw new Problem("The server is busy with other searches. Try again in a moment.");
  }
  if (typeof said !== "string") throw new Problem(`The server answered ${reply.status}.`);
  throw new Problem(said.replace(/^q: it /, "The text "));
}

/** Run a step; if it is slow, `doing` is shown; an error, with a button that runs it again. */
async function attempt(doing, step) {
  rest();
  const { signal } = (asking = new AbortController());
  document.body.setAttribute("aria-busy", "true");
  waiting = setTimeout(() => {
    at("verdict").textContent = "";
    at("times").textContent = doing;
  }, SLOW);
  try {
    await step(signal);
    if (asking.signal === signal) at("problem").hidden = true; // else a later step has shown its own
  } catch (error) {
    if (error.name === "AbortError") return; // replaced by another request
    if (!(error instanceof Problem)) throw error;
    at("results").hidden = true;
    at("verdict").textContent = at("times").textContent = "";
    at("problem").querySelector("p").textContent = error.message;
    at("problem").querySelector("button").onclick = () => attempt(doing, step);
    at("problem").hidden = false;
  } finally {
    if (asking.signal === signal) rest();
  }
}

/** Stop what is running. */
function rest() {
  asking?.abort();
  clearTimeout(waiting);
  document.body.removeAttribute("aria-busy");
}

const start = () =>
  attempt("Loading…", async (signal) => {
    info = await get("v1/info", signal);
    at("name").textContent = info.name;
    at("size").textContent = `${whole.format(info.images)} pictures`;
    options(at("k"), [...STEPS.filter((step) => step < info.max_k), info.max_k]);
    options(at("tokens"), info.token_budgets);
    at("budgets").hidden = info.token_budgets.length < 2;
    await answer();
  });

function answer() {
  const wanted = asked();
  choose(at("k"), wanted.k);
  choose(at("tokens"), wanted.tokens);
  at("fold").checked = wanted.fold;
  document.title = wanted.q ? `${wanted.q} · ${info.name}` : info.name;
  at("hint").hidden = true;
  if (at("viewer").open) at("viewer").close();
  if (!wanted.q) {
    rest();
    at("results").hidden = at("problem").hidden = true;
    at("times").textContent = "";
    at("verdict").textContent = info.images ? "" : "This index has no pictures yet.";
    at("hint").hidden = !info.images;
    return undefined;
  }
  return attempt("Searching…", async (signal) => {
    const { q, k, top, tokens, fold } = wanted;
    const query = new URLSearchParams({ q, k, top, tokens, group_duplicates: fold });
    if (info.token_budgets.length < 2) query.delete("tokens");
    show(await get(`v1/search?${query}`, signal));
  });
}

function options(select, numbers) {
  select.replaceChildren(...numbers.map((number) => new Option(whole.format(number), number)));
}

function choose(select, number) {
  if (![...select.options].some((option) => option.value === String(number))) {
    select.add(new Option(whole.format(number), number));
  }
  select.value = number;
}

// ---- an answer --------------------------------------------------------------------------------

function show(found) {
  const lists = {
    first_stage: found.first_stage.map((hit) => ({ ...hit, list: "first_stage" })),
    reranked: found.reranked.map((hit) => ({
      ...hit,
      list: "reranked",
      moved: hit.first_stage_place - hit.rank,
    })),
  };
  for (const [list, hits] of Object.entries(lists)) {
    at(list).querySelector("ol").replaceChildren(...hits.map(item));
  }
  at("verdict").textContent = verdict(found);
  at("verdict").classList.toggle("poor", found.matches_well === false);
  at("times").textContent = times(found);
  at("results").hidden = !found.reranked.length;
  at("more").hidden = found.reranked.length < found.top || found.top >= Math.min(found.k, info.max_top);
}

function verdict(found) {
  if (!found.reranked.length) return "Nothing found.";
  if (found.matches_well === false) return "Nothing matches well. These come closest.";
  return "";
}

function times({ times_ms: took, index, k }) {
  const images = whole.format(index.images);
  const read = whole.format(Math.min(k, index.images));
  const known = Object.entries(STAGES).filter(([stage]) => Number.isFinite(took[stage]));
  const stages = known.map(([stage, name]) => `${name} ${milliseconds(took[stage])}`);
  const other = known.reduce((left, [stage]) => left - took[stage], took.total); // waiting, folding
  if (other >= 0.1) stages.push(`other ${milliseconds(other)}`);
  return `${read} of ${images} pictures reranked in ${milliseconds(took.total)} ms: ${stages.join(", ")}`;
}

const milliseconds = (time) => (time < 9.95 ? time.toFixed(1) : whole.format(Math.round(time)));

function item(hit) {
  const made = at("hit").content.cloneNode(true).firstElementChild;
  const part = (name) => made.querySelector(name);
  made.dataset.id = hit.id;
  part(".rank").textContent = hit.rank;
  part(".id bdi").textContent = hit.id;
  part(".id").title = hit.id;
  part(".sure").append(...sure(hit));
  part(".certainty").style.setProperty("--share", hit.list === "reranked" ? hit.probability ?? 0 : 0);
  moved(part(".moved"), hit.moved);
  picture(part(".picture"), hit);
  if (hit.duplicates?.length) made.append(...duplicates(hit));
  return made;
}

/** How certain a hit is: its probability if there is one, else its score. */
function sure(hit) {
  if (hit.list === "first_stage") return [unseen("cosine "), hit.first_stage_score?.toFixed(2) ?? ""];
  if (hit.probability !== null) return [unseen("probability "), percent(hit.probability)];
  return [unseen("score "), hit.score?.toFixed(2) ?? ""];
}

function percent(share) {
  if (share > 0 && share < 0.01) return "<1%";
  if (share < 1 && share > 0.99) return ">99%";
  return `${Math.round(100 * share)}%`;
}

function moved(place, by) {
  if (!by) return; // the first stage's own list, or the same place
  const [arrow, word] = by > 0 ? ["▲", "up"] : ["▼", "down"];
  place.classList.add(word);
  const arrowed = document.createElement("span");
  arrowed.setAttribute("aria-hidden", "true");
  arrowed.textContent = arrow;
  place.append(arrowed, unseen(`${word} `), ` ${whole.format(Math.abs(by))}`);
}

function unseen(text) {
  const span = document.createElement("span");
  span.className = "unseen";
  span.textContent = text;
  return span;
}

function picture(button, hit) {
  const image = button.querySelector("img");
  button.hit = hit;
  image.alt = hit.id;
  if (hit.width && hit.height) [image.width, image.height] = [hit.width, hit.height];
  image.addEventListener("error", () => button.replaceChildren(unseen(`${hit.id}: `), "no picture"));
  image.src = source(hit, "thumb");
  button.addEventListener("click", () => open(button));
}

/** The address of a picture under that of the page, which a proxy may have put elsewhere. */
const source = (hit, size) => `.${hit.image}?size=${size}`;

/** The list of a hit's near duplicates, and a button that unfolds it. */
function duplicates(hit) {
  const button = document.createElement("button");
  const list = document.createElement("ul");
  const count = whole.format(hit.duplicates.length);
  button.type = "button";
  button.className = "fold";
  button.textContent = `+${count} similar`;
  button.setAttribute("aria-expanded", "false");
  list.hidden = true;
  list.setAttribute("role", "list");
  button.addEventListener("click", () => {
    if (!list.childElementCount) {
      list.append(...hit.duplicates.map((id) => duplicate(id, hit)));
    }
    list.hidden = !list.hidden;
    button.setAttribute("aria-expanded", String(!list.hidden));
  });
  return [button, list];
}

function duplicate(id, hit) {
  const made = document.createElement("li");
  const button = at("hit").content.querySelector("button").cloneNode(true);
  button.title = id;
  picture(button, { id, image: `/images/${encodeURIComponent(id)}`, list: hit.list, like: hit.id });
  made.append(button);
  return made;
}

// ---- a large picture --------------------------------------------------------------------------

const viewer = at("viewer");
let shown; // the button of the large picture

const isDisplayed = (one) => one.getClientRects().length > 0;

const pictures = () =>
  [...shown.closest("section").querySelectorAll(".picture")].filter(isDisplayed);

function open(button) {
  shown = button;
  const { hit } = button;
  const large = viewer.querySelector(".frame img");
  const all = pictures();
  large.hidden = false;
  at("missing").hidden = true;
  viewer.querySelector(".back").disabled = all[0] === button;
  viewer.querySelector(".on").disabled = all.at(-1) === button;
  at("viewer_name").textContent = large.alt = hit.id;
  at("viewer_facts").textContent = facts(hit);
  large.src = source(hit, "thumb"); // until the large one is loaded
  const loaded = new Image();
  loaded.addEventListener("load", () => {
    if (shown === button) large.src = loaded.src;
  });
  loaded.src = source(hit, "large");
  if (!viewer.open) viewer.showModal();
}

function facts(hit) {
  if (hit.like) return `similar to ${hit.like}`;
  const said = [`${hit.list === "reranked" ? "reranked" : "first stage"}: place ${hit.rank}`];
  if (hit.moved) said.push(`${hit.moved > 0 ? "up" : "down"} ${Math.abs(hit.moved)}`);
  if (hit.list === "reranked" && hit.probability !== null) {
    said.push(`probability ${percent(hit.probability)}`);
  }
  if (hit.width && hit.height) said.push(`${hit.width} × ${hit.height}`);
  return said.join(" · ");
}

function step(by) {
  const all = pictures();
  const next = all[all.indexOf(shown) + by];
  if (next) open(next);
}

viewer.querySelector(".frame img").addEventListener("error", () => {
  viewer.querySelector(".frame img").hidden = true;
  at("missing").hidden = false;
});
viewer.querySelector(".close").addEventListener("click", () => viewer.close());
viewer.querySelector(".back").addEventListener("click", () => step(-1));
viewer.querySelector(".on").addEventListener("click", () => step(1));
viewer.addEventListener("close", () => shown.focus({ focusVisible: true }));
viewer.addEventListener("click", (event) => {
  if (event.target === viewer || event.target.matches(".frame")) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  step(by);
});

// ---- controls ---------------------------------------------------------------------------------

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = at("query").value.trim();
  if (!q) return;
  if (!info) { // the answer follows once it is loaded
    const said = new URLSearchParams(location.search);
    said.set("q", q);
    said.delete("top");
    history.pushState(null, "", addressOf(said));
    if (!document.body.hasAttribute("aria-busy")) start();
    return;
  }
  if (matchMedia("(pointer: coarse)").matches) at("query").blur(); // hides the keyboard
  ask({ q, top: Math.min(TOP, info.max_top) });
});
for (const name of ["k", "tokens"]) {
  at(name).addEventListener("change", () => ask({ [name]: Number(at(name).value) }));
}

at("fold").addEventListener("change", () => ask({ fold: at("fold").checked }));

at("more").addEventListener("click", async () => {
  const { top } = asked();
  await ask({ top: Math.min(2 * top, info.max_top) });
  const lists = [...document.querySelectorAll("#reranked, #first_stage")];
  const seen = lists.filter(isDisplayed).at(-1); // for both layouts
  seen?.querySelectorAll("ol > li > .picture")[top]?.focus();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // keeps the address, which holds the query
  at("reranked").focus();
});

for (const button of document.querySelectorAll(".switch button")) {
  button.addEventListener("click", () => {
    const list = button.dataset.list; // the one that a narrow window shows
    at("results").dataset.shown = list;
    for (const other of document.querySelectorAll(".switch button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

/** Mark the picture under the pointer or with the focus in both lists. */
function mark(event) {
  const id = event.target.closest?.("#results li")?.dataset.id;
  for (const one of at("results").querySelectorAll("li[data-id]")) {
    one.classList.toggle("same", id !== undefined && one.dataset.id === id);
  }
}
for (const kind of ["pointerover", "pointerleave", "focusin"]) {
  at("results").addEventListener(kind, mark);
}

addEventListener("popstate", () => {
  at("query").value = inAddress();
  if (info) answer();
});

const given = new URLSearchParams(location.search);
if (given.has("token")) { // the cookie has it now; a shared address must not contain it
  given.delete("token");
  history.replaceState(null, "", addressOf(given));
}
// From now on the box is the reader's: what is typed while the page loads stays.
if (inAddress()) at("query").value = inAddress();
else at("query").focus();
start();

/* The dashboard's own script: it refreshes regions, counts times up, reads keys, and says what an action did.

Every page works without it. A region is an element with hx-trigger="neoq:refresh"; htmx asks for it, and
idiomorph changes what differs. The pages are no-store, so the ETags are kept here. The names of the other hooks
(data-confirm and the like) stand at the head of neoq.css. */
(() => {
  "use strict";

  Object.assign(htmx.config, {
    allowEval: false,
    allowScriptTags: false,
    historyEnabled: false,
    includeIndicatorStyles: false,
    scrollIntoViewOnBoost: false,
    timeout: 10000,
    responseHandling: [
      { code: "[23]04", swap: false },
      { code: "[23]..", swap: true },
      { code: "[45]..", swap: false, error: true },
    ],
  });

  const REGION = '[hx-trigger="neoq:refresh"]';
  const LONGEST = 30; // seconds between tries while the server errs
  const CHOICES = [[2, "every 2 s"], [10, "every 10 s"], [0, "off"]];
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const kept = {
    read(name, otherwise) {
      try {
        return localStorage.getItem(`neoq-${name}`) ?? otherwise;
      } catch {
        return otherwise; // a browser that keeps nothing
      }
    },
    write(name, value) {
      try {
        localStorage.setItem(`neoq-${name}`, value);
      } catch {}
    },
  };

  document.documentElement.classList.add("scripted");
  document.body.setAttribute("hx-ext", "morph");

  // -- what is kept when a region changes -------------------------------------------------------------------

  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) => {
    if (name === "open" && (node.localName === "details" || node.localName === "dialog")) return false;
    if (name === "checked" && node.localName === "input") return false;
    return !(name === "disabled" && "needsTicks" in node.dataset);
  };
  Idiomorph.defaults.callbacks.afterNodeAdded = (node) => {
    if (node.localName === "tr") node.classList.add("fresh");
  };

  // -- refreshing -------------------------------------------------------------------------------------------

  const etags = new Map();
  const askedAt = new Map(); // regions that change seldom have data-every
  let every = Number(kept.read("every", "2"));
  if (!CHOICES.some(([seconds]) => seconds === every)) every = 2;
  let timer = 0, pending = 0, failures = 0, failure = "", due = 0;

  const regions = () => all(REGION);
  const typing = (node) =>
    node?.isContentEditable ||
    (node?.matches?.("input, select, textarea") && !node.closest("#tools") && node.type !== "submit" && node.type !== "button");

  /** Why the page must not change under the reader's hand; empty if it may. */
  function rest() {
    if (document.hidden) return "hidden";
    if (one("dialog[open]")) return "paused: a dialog is open";
    const ticked = all(`:is(${REGION}) input[type=checkbox]:checked`).length;
    if (ticked) return `paused: ${ticked} ticked`;
    if (typing(document.activeElement)) return "paused while you type";
    const selection = getSelection();
    if (selection && !selection.isCollapsed && String(selection).trim()) return "paused: text is selected";
    return "";
  }

  function say(text, kind) {
    const live = one("#refresh-said");
    if (!live || (live.textContent === text && live.className === `live live-${kind}`)) return;
    live.className = `live live-${kind}`;
    live.textContent = text;
  }

  function show() {
    const why = rest();
    if (!every) say("not refreshed", "off");
    else if (failure) say(`${failure} Next try in ${Math.max(0, Math.ceil((due - Date.now()) / 1000))} s.`, "bad");
    else if (why) say(why, "rest");
    else say("live", "on");
  }

  function later() {
    clearTimeout(timer);
    if (!every) return show();
    const seconds = failures ? Math.min(LONGEST, Math.max(every, 2) * 2 ** failures) : every;
    due = Date.now() + seconds * 1000;
    timer = setTimeout(refresh, seconds * 1000);
    show();
  }

  function refresh(asked = false) {
    clearTimeout(timer);
    const now = Date.now();
    const wanted = regions().filter((region) => asked === true || now - (askedAt.get(region.id) ?? 0) >= region.dataset.every * 1000);
    if (!regions().length) return;
    if (pending || (asked !== true && rest())) {
      timer = setTimeout(refresh, 1000);
      return show();
    }
    pending = wanted.length;
    if (!pending) return later();
    for (const region of wanted) {
      askedAt.set(region.id, now);
      htmx.trigger(region, "neoq:refresh");
    }
  }

  function failed(text) {
    failures += 1;
    if (failure !== text) announce(text);
    failure = text;
  }

  const isRegion = (node) => node?.matches?.(REGION);
  const nameOf = (node) => `${node.id} ${node.getAttribute("hx-get")}`;

  document.addEventListener("htmx:configRequest", ({ detail }) => {
    const etag = isRegion(detail.elt) && etags.get(nameOf(detail.elt));
    if (etag) detail.headers["If-None-Match"] = etag;
  });
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const { requestConfig, xhr } = detail;
    if (!isRegion(requestConfig.elt) || !detail.shouldSwap) return;
    if (!xhr.responseText.includes(`id="${requestConfig.elt.id}"`)) {
      detail.shouldSwap = false; // another page has answered: a login, perhaps
      xhr.strange = true;
    } else if (!requestConfig.triggeringEvent?.asked && rest()) {
      detail.shouldSwap = false; // the hand came between
    } else {
      etags.set(nameOf(requestConfig.elt), xhr.getResponseHeader("ETag"));
    }
  });
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (!isRegion(detail.requestConfig?.elt)) return;
    pending = Math.max(0, pending - 1);
    const { status, strange } = detail.xhr;
    if (strange) failed("Another page answers: load this one again.");
    else if (status === 503) failed("The store does not answer.");
    else if (status === 0) failed("The dashboard does not answer.");
    else if (status >= 400) failed(`The dashboard answers ${status}.`);
    else if (detail.xhr.getResponseHeader("Neoq-Age")) failed("The store does not answer; these numbers are older.");
    else if (!pending) {
      if (failure) announce("The dashboard answers again.");
      failures = 0;
      failure = "";
    }
    if (!pending) later();
  });
  document.addEventListener("htmx:afterSwap", () => {
    tellTimes();
    ticks();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  addEventListener("pageshow", (event) => event.persisted && refresh());

  /** Load the page anew as soon as the store is back, where it had nothing to show. */
  async function comeBack(tries = 1) {
    await new Promise((done) => setTimeout(done, Math.min(LONGEST, 2 ** tries) * 1000));
    try {
      const answer = document.hidden ? null : await fetch(location.href, { method: "HEAD" });
      if (answer && answer.status !== 503) return location.reload();
    } catch {}
    comeBack(document.hidden ? tries : tries + 1);
  }

  // -- the tools at the top ---------------------------------------------------------------------------------

  function tools() {
    const place = one("#tools") ?? one("header.top")?.appendChild(make("div", { class: "tools", id: "tools" }));
    if (!place) return;
    if (regions().length) {
      const choice = make("select", { id: "refresh-every", "aria-label": "Refresh this page" });
      for (const [seconds, words] of CHOICES) choice.append(new Option(words, seconds, false, seconds === every));
      choice.addEventListener("change", () => {
        every = Number(choice.value);
        kept.write("every", every);
        failures = 0;
        failure = "";
        if (every) refresh();
        else later();
      });
      place.append(make("span", { class: "live", id: "refresh-said" }), choice);
    }
    const help = make("button", { type: "button", class: "small", "aria-label": "Keys", title: "Keys (?)" }, "?");
    help.addEventListener("click", showKeys);
    place.append(help);
  }

  // -- times ------------------------------------------------------------------------------------------------

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const MONTH = 30 * 86400;
  const LOCAL = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  });
  const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const put = (node, text) => node.textContent === text || (node.textContent = text);
  const utc = (date) => `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;

  function ago(date) {
    const seconds = (date - Date.now()) / 1000;
    const away = Math.abs(seconds);
    if (away >= MONTH) return null;
    if (away < 1) return "now";
    const [size, unit] = UNITS.find(([size]) => away >= size);
    const words = `${Math.floor(away / size)} ${unit}`;
    return seconds > 0 ? `in ${words}` : `${words} ago`;
  }

  function tellTimes() {
    for (const node of all("time[datetime]")) {
      const date = new Date(node.dateTime);
      if (isNaN(date)) continue;
      if ("ago" in node.dataset) {
        const words = ago(date);
        if (words) put(node, words);
      } else if ("exact" in node.dataset) put(node, LOCAL.format(date));
      else if ("clock" in node.dataset) put(node, CLOCK.format(date));
      const title = "exact" in node.dataset ? utc(date) : `${LOCAL.format(date)} · ${utc(date)}`;
      if (node.title !== title) node.title = title;
    }
  }

  document.addEventListener("copy", (event) => {
    const selection = getSelection();
    const within = selection.anchorNode?.parentElement?.closest("time[datetime]");
    if (!within || !within.contains(selection.focusNode)) return;
    event.clipboardData.setData("text/plain", utc(new Date(within.dateTime)));
    event.preventDefault();
  });

  // -- ticks, questions and copies --------------------------------------------------------------------------

  const boxes = (form) => [...form.elements].filter((box) => box.type === "checkbox" && !("ticks" in box.dataset) && !("apart" in box.dataset));
  let lastTicked = null;

  /** Let the buttons of each form say whether anything is ticked. */
  function ticks() {
    for (const form of document.forms) {
      const needy = [...form.elements].filter((button) => "needsTicks" in button.dataset);
      const master = [...form.elements].find((box) => "ticks" in box.dataset);
      if (!needy.length && !master) continue;
      const found = boxes(form);
      const count = found.filter((box) => box.checked).length;
      for (const button of needy) {
        button.disabled = !count;
        button.title = count ? "" : "Tick a row first";
      }
      if (master) {
        master.checked = count > 0 && count === found.length;
        master.indeterminate = count > 0 && count < found.length;
      }
      const said = one(".bulk-said", form);
      if (said) put(said, count ? `${count} ticked` : said.dataset.none ?? "Tick rows to act on them");
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.type !== "checkbox" || !event.target.form) return;
    if ("ticks" in event.target.dataset) for (const box of boxes(event.target.form)) box.checked = event.target.checked;
    ticks();
    show();
  });

  document.addEventListener("click", (event) => {
    const box = event.target.closest?.("input[type=checkbox]");
    if (box?.form && !("ticks" in box.dataset)) {
      const found = boxes(box.form);
      const from = found.indexOf(lastTicked), to = found.indexOf(box);
      if (event.shiftKey && from >= 0 && to >= 0) {
        for (const between of found.slice(Math.min(from, to), Math.max(from, to) + 1)) between.checked = box.checked;
        ticks();
      }
      lastTicked = box;
    }
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
  });

  async function copy(button) {
    const text = one(button.dataset.copy)?.textContent ?? "";
    try {
      await navigator.clipboard.writeText(text); // absent on plain http
    } catch {
      const area = make("textarea", { class: "hidden" });
      area.value = text;
      button.after(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    announce("Copied.");
    const words = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = words), 1500);
  }

  function ask(question, words, dangerous) {
    return new Promise((answer) => {
      const yes = make("button", { value: "yes", class: dangerous ? "danger" : "primary" }, words);
      const no = make("button", { value: "no", autofocus: "" }, "Cancel");
      const dialog = make(
        "dialog", { "aria-label": question },
        make("p", {}, question), make("form", { method: "dialog", class: "acts" }, no, yes),
      );
      dialog.addEventListener("close", () => {
        answer(dialog.returnValue === "yes");
        dialog.remove();
      });
      document.body.append(dialog);
      dialog.showModal();
    });
  }

  // -- actions ----------------------------------------------------------------------------------------------

  document.addEventListener("submit", async (event) => {
    const { target: form, submitter } = event;
    if (form.method === "get") return shorten(form);
    if (form.method !== "post") return;
    event.preventDefault();
    if (form.dataset.sent) return; // a double click
    const question = submitter?.dataset.confirm ?? form.dataset.confirm;
    if (question && !(await ask(question, submitter?.textContent.trim() ?? "Yes", submitter?.classList.contains("danger")))) {
      submitter?.focus();
      return;
    }
    form.dataset.sent = "yes";
    form.setAttribute("aria-busy", "true");
    try {
      const action = submitter?.getAttribute("formaction") ?? form.getAttribute("action") ?? "";
      const response = await fetch(action, { method: "POST", body: new URLSearchParams(new FormData(form, submitter)) });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      arrive(response, page);
    } catch {
      announce("The dashboard does not answer: whether anything has changed is not known. Load the page again.", true);
    } finally {
      delete form.dataset.sent;
      form.removeAttribute("aria-busy");
    }
  });

  /** Leave empty fields out of the URL of a filter. */
  function shorten(form) {
    const empty = [...form.elements].filter((field) => field.name && !field.value && !field.disabled);
    for (const field of empty) field.disabled = true;
    setTimeout(() => {
      for (const field of empty) field.disabled = false;
    });
  }

  /** Show the page that answers an action: in place of this one, without a jump, if it is the same. */
  function arrive(response, page) {
    const main = one("#main", page);
    const said = one("#live", page)?.textContent.trim() ?? "";
    const there = new URL(response.url);
    if (!main) return location.assign(there);
    if (response.ok && response.redirected && (there.pathname !== location.pathname || there.search !== location.search)) {
      try {
        if (said) sessionStorage.setItem("neoq-said", JSON.stringify([said, !!one("#live .bad", page)]));
      } catch {}
      return location.assign(there);
    }
    for (const box of all("#main input[type=checkbox]:checked")) box.checked = false;
    getSelection()?.removeAllRanges();
    const live = one("#live", main);
    const words = live ? [...live.childNodes] : [];
    live?.replaceChildren(); // what is put into a region that stays is announced
    Idiomorph.morph(one("#main"), main, { morphStyle: "outerHTML" });
    htmx.process(one("#main"));
    one("#live")?.replaceChildren(...words);
    document.title = page.title;
    etags.clear();
    tellTimes();
    ticks();
    later();
    one("#live")?.scrollIntoView?.({ block: "nearest" });
  }

  /** Say something to those who listen; ``bad`` is shown as well. */
  function announce(text, bad = false) {
    const live = one("#live");
    if (bad && live) return live.replaceChildren(make("p", { class: "flash bad" }, text));
    let silent = one("#announced");
    if (!silent) {
      silent = make("div", { id: "announced", class: "hidden", role: "status", "aria-live": "polite" });
      document.body.append(silent);
    }
    silent.textContent = "";
    setTimeout(() => (silent.textContent = text), 60);
  }

  /** What an action did stands in the page when it is loaded, which is not announced by itself. */
  function announceFirst() {
    let said = one("#live")?.textContent.trim() ?? "";
    try {
      const brought = sessionStorage.getItem("neoq-said");
      sessionStorage.removeItem("neoq-said");
      if (!said && brought) {
        const [text, bad] = JSON.parse(brought);
        one("#live")?.append(make("p", { class: `flash ${bad ? "bad" : "good"}` }, text));
        said = text;
      }
    } catch {}
    if (said) announce(said);
  }

  // -- keys -------------------------------------------------------------------------------------------------

  let keysOn = kept.read("keys", "on") === "on", went = 0;
  const links = () => all("header nav a");

  function showKeys() {
    const list = make("dl", { class: "keys" });
    const line = (keys, words) => list.append(make("dt", {}, ...keys.flatMap((key) => [make("kbd", {}, key), " "])), make("dd", {}, words));
    for (const link of links()) line(["g", letter(link)], nameOfLink(link));
    line(["/"], "Search");
    line(["r"], "Refresh now");
    line(["?"], "This list");
    const box = make("input", { type: "checkbox", id: "keys-on" });
    box.checked = keysOn;
    box.addEventListener("change", () => {
      keysOn = box.checked;
      kept.write("keys", keysOn ? "on" : "off");
    });
    const close = make("button", { autofocus: "" }, "Close");
    const dialog = make(
      "dialog", { "aria-labelledby": "keys-name" },
      make("h2", { id: "keys-name" }, "Keys"), list,
      make("p", {}, make("label", {}, box, " Read these keys")),
      make("form", { method: "dialog", class: "acts" }, close),
    );
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  const nameOfLink = (link) => (link.firstChild?.textContent ?? "").trim();
  const letter = (link) => nameOfLink(link).charAt(0).toLowerCase();

  document.addEventListener("keydown", (event) => {
    if (!keysOn || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches?.("input, select, textarea") || event.target.isContentEditable || one("dialog[open]")) return;
    const afterG = Date.now() - went < 1500;
    went = 0;
    if (afterG) {
      const link = links().find((link) => letter(link) === event.key.toLowerCase());
      if (link) link.click();
    } else if (event.key === "g") went = Date.now();
    else if (event.key === "r") refresh(true);
    else if (event.key === "?") showKeys();
    else if (event.key === "/") {
      const search = one("[data-search]");
      if (search) search.focus();
      else links().find((link) => letter(link) === "j")?.click();
      event.preventDefault();
    }
  });

  // -- what a bar of a chart says ----------------------------------------------------------------------------

  /** What a slot says, its time in the reader's zone. */
  function local(slot, words) {
    const svg = slot.ownerSVGElement;
    const place = one(".hit", slot).x.baseVal.value / one(".hit", slot).width.baseVal.value;
    const date = new Date(Date.parse(svg.dataset.start) + place * svg.dataset.step * 1000);
    return isNaN(date) ? words : words.replace(/^\S+ UTC/, CLOCK.format(date));
  }

  let tip = null;
  document.addEventListener("pointerover", ({ target }) => {
    const slot = target.closest?.(".slot");
    if (tip && tip.slot !== slot) {
      tip.remove();
      if (tip.words) tip.title.textContent = tip.words; // which the browser would show as well, and late
      tip = null;
    }
    const title = slot && one("title", slot);
    if (!title || tip) return;
    tip = make("div", { class: "tip", "aria-hidden": "true" }, local(slot, title.textContent).replace(/[:,] /g, "\n"));
    Object.assign(tip, { slot, title, words: title.textContent });
    title.textContent = "";
    document.body.append(tip);
    const at = slot.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(innerWidth - own.width - 4, at.left + at.width / 2 - own.width / 2))}px`;
    tip.style.top = `${Math.max(4, at.top - own.height - 6)}px`;
  });

  // -- begin: the script is deferred, so the page is there --------------------------------------------------

  tools();
  tellTimes();
  ticks();
  announceFirst();
  later();
  if (one("[data-away]")) comeBack();
  setInterval(() => {
    if (document.hidden) return;
    tellTimes();
    show();
  }, 1000);
})();

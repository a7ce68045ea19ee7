"use strict";

// The service sends a part of the page anew when it changes. It escaped whatever others wrote, and
// the page's policy runs no script that stands in a part.
const state = document.getElementById("connection");
const source = new EventSource(document.body.dataset.events);

function marks(section) {
  return [...section.querySelectorAll("details[id], input[type=checkbox][id]")].map((element) => [
    element.id,
    element.open ?? element.checked,
  ]);
}

function put(section, html) {
  const focused = section.contains(document.activeElement) ? document.activeElement.id : "";
  const before = marks(section);
  const made = document.createElement("template");
  made.innerHTML = html;
  section.replaceChildren(made.content);
  for (const [id, on] of before) {
    const element = document.getElementById(id);
    if (element === null) continue;
    element[element.tagName === "DETAILS" ? "open" : "checked"] = on;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function say(words) {
  if (state.textContent === words) return;
  state.className = words ? "wrong" : "";
  state.textContent = words;
}

source.onmessage = (event) => {
  say("");
  for (const [id, html] of Object.entries(JSON.parse(event.data))) {
    const section = document.getElementById(id);
    if (section !== null) put(section, html);
  }
};
source.addEventListener("trouble", (event) => say(JSON.parse(event.data)));
source.onerror = () => say("The page's service does not answer: what stands here is old.");

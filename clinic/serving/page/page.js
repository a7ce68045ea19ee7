"use strict";

const form = document.getElementById("ask");
const state = document.getElementById("state");
const answer = document.getElementById("answer");

// Text is only ever set as text: a file's name is no markup.
function made(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function tableOf(record) {
  const table = made("table");
  table.append(made("caption", record.name));
  const head = made("tr");
  for (const text of ["Finding", "Value", ""]) head.append(made("th", text));
  table.append(head);
  for (const [name, value] of Object.entries(record.values)) {
    const called = record.called.includes(name);
    const row = made("tr", undefined, called ? "called" : "");
    row.append(made("td", called ? `${name} (called)` : name), made("td", value.toPrecision(3), "number"));
    const cell = made("td");
    if (value >= 0 && value <= 1) {
      const meter = made("meter");
      meter.value = value;
      meter.setAttribute("aria-label", `${name}: ${value.toPrecision(3)}`);
      cell.append(meter);
    }
    row.append(cell);
    table.append(row);
  }
  return table;
}

function show(told) {
  answer.replaceChildren(made("h2", told.study));
  for (const record of told.records.slice(0, 100)) answer.append(tableOf(record));
  if (told.records.length > 100) answer.append(made("p", `${told.records.length - 100} more records are not shown.`));
  if (told.explanation) {
    const picture = made("img");
    picture.src = told.explanation.picture;
    picture.alt = told.explanation.about;
    answer.append(picture, made("p", told.explanation.about));
  }
  answer.append(made("p", `Study ${told.digest.slice(0, 12)}`));
  if (told.id) answer.append(made("p", `Answer ${told.id}`));
  answer.hidden = false;
  answer.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  answer.hidden = true;
  state.className = "";
  state.textContent = "Asking the model …";
  const token = document.getElementById("token").value;
  try {
    const reply = await fetch("predict", {
      method: "POST",
      body: new FormData(form),
      headers: token ? { Authorization: `Bearer ${token}` } : {},
    });
    const told = await reply.json();
    if (!reply.ok) throw new Error(told.error);
    state.textContent = "";
    show(told);
  } catch (error) {
    state.className = "error";
    state.textContent = error.message;
  }
});

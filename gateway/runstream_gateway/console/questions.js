// What an interrupted run asks for, as a form: LangChain's reviews of tool calls by buttons, anything else by a text.

import { h } from "./dom.js";
import { pretty } from "./transcript.js";

/**
 * @param {{id: string, value: any}[]} interrupts what the run asks for; none where it stopped at a breakpoint.
 * @param {(resume: any) => void} onAnswer is given what the next run resumes with; undefined to just go on.
 */
export function questions(interrupts, onAnswer) {
  const form = h("form", { class: "asks", "aria-label": "The run asks" });
  if (interrupts.length === 0) {
    form.append(h("p", {}, "The run stopped at a breakpoint."), h("button", { type: "submit", class: "primary" }, "Go on"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onAnswer(undefined);
    });
    return form;
  }
  const fields = interrupts.map((interrupt, at) => (isReview(interrupt.value) ? review(interrupt, at) : question(interrupt, at)));
  const problem = h("p", { class: "problem", role: "alert" });
  form.append(...fields.map((field) => field.element), problem);
  form.append(h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Answer")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      const answers = fields.map((field) => field.answer());
      const byId = Object.fromEntries(interrupts.map(({ id }, at) => [id, answers[at]]));
      onAnswer(interrupts.length === 1 ? answers[0] : byId);
    } catch (error) {
      problem.textContent = error.message;
    }
  });
  return form;
}

function question({ value }, at) {
  const id = `answer-${at}`;
  const text = h("textarea", { id, rows: 2, required: true });
  const isJson = h("input", { type: "checkbox", id: `${id}-json` });
  const element = h(
    "div",
    { class: "question" },
    h("pre", {}, pretty(value)),
    h("label", { for: id }, "Your answer"),
    text,
    h("label", { class: "check" }, isJson, " as JSON"),
  );
  return {
    element,
    answer() {
      if (!isJson.checked) return text.value;
      try {
        return JSON.parse(text.value);
      } catch {
        throw new Error("This is no JSON.");
      }
    },
  };
}

function isReview(value) {
  return Array.isArray(value?.action_requests) && value.action_requests.length > 0;
}

/** LangChain's `HumanInTheLoopMiddleware`: a decision for each tool call. */
function review({ value }, at) {
  const parts = value.action_requests.map((action, index) => {
    const name = `decision-${at}-${index}`;
    const radio = (decision, label, checked) =>
      h("label", { class: "check" }, h("input", { type: "radio", name, value: decision, checked }), ` ${label}`);
    const reason = h("input", { type: "text", "aria-label": "Why not", placeholder: "Why not (optional)" });
    const element = h(
      "fieldset",
      { class: "question" },
      h("legend", {}, h("code", {}, `${action.name}(${JSON.stringify(action.args ?? action.arguments ?? {})})`)),
      action.description ? h("pre", {}, action.description) : null,
      h("div", { class: "choices" }, radio("approve", "Approve", true), radio("reject", "Reject", false), reason),
    );
    const decide = () => {
      const type = element.querySelector("input:checked").value;
      return type === "reject" && reason.value ? { type, message: reason.value } : { type };
    };
    return { element, decide };
  });
  return {
    element: h("div", {}, ...parts.map((part) => part.element)),
    answer: () => ({ decisions: parts.map((part) => part.decide()) }),
  };
}

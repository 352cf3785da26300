/** What `runner export --html` writes into one file: the pages over the run that is in the file, without a server. */
import { answerWith } from "./api";
import { offline } from "./offline";

const held = JSON.parse(document.getElementById("run")?.textContent ?? "{}");
answerWith(offline(held));
if (!location.hash.startsWith("#/runs/")) location.hash = `#/runs/${encodeURIComponent(held.run.id)}`;
void import("./main");

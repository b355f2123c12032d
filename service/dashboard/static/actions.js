// Buttons that ask the server for something: pausing a search, retrying and cancelling jobs, exporting a network.

const notices = document.getElementById("notices");
const LOOK_MS = 700;
// Only the pages of a session have one.
const csrf = document.querySelector('meta[name="csrf-token"]')?.content;

class Refused extends Error {}

async function ask(url, body) {
  let response;
  try {
    response = await fetch(url, {
      method: body === undefined ? "GET" : "POST",
      headers: {
        "content-type": "application/json", accept: "application/json", ...(csrf && { "x-csrf-token": csrf }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused("The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(answer.detail ?? `The server answered ${response.status}.`);
  return answer;
}

function notice(text, good = false) {
  const box = document.createElement("div");
  box.className = good ? "notice good" : "notice";
  const said = document.createElement("p");
  said.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Dismiss";
  close.addEventListener("click", () => box.remove());
  box.append(said, close);
  notices.append(box);
}

const jobs = (count) => (count === 1 ? "1 job" : `${count} jobs`);

// What became of many jobs: how many were changed, and why the others were not.
function tell({ retried, cancelled, stopping, left_alone: left }) {
  if (retried?.length) notice(`Waiting again: ${jobs(retried.length)}.`, true);
  if (cancelled?.length) notice(`Cancelled: ${jobs(cancelled.length)}.`, true);
  if (stopping?.length) notice(`Told to stop with the next heartbeat: ${jobs(stopping.length)}.`, true);
  const reasons = [...new Set(left.map((each) => each.reason))];
  const more = reasons.length > 3 ? ` And ${reasons.length - 3} other reasons.` : "";
  if (left.length) notice(`Left alone: ${jobs(left.length)}. ${reasons.slice(0, 3).join(". ")}.${more}`);
}

// Work on many jobs is done batch by batch: each answer says where the next one begins.
async function inBatches(url, wanted) {
  const all = {};
  let after = 0;
  while (after !== null) {
    const { next, ...part } = await ask(url, { ...wanted, after });
    for (const [name, items] of Object.entries(part)) all[name] = [...(all[name] ?? []), ...items];
    after = next;
  }
  return all;
}

async function post(button) {
  if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
  button.disabled = true;
  try {
    if (button.dataset.body) tell(await inBatches(button.dataset.post, JSON.parse(button.dataset.body)));
    else await ask(button.dataset.post, {});
    document.body.dispatchEvent(new CustomEvent("frontier:changed", { detail: { waitFor() {} } }));
  } catch (error) {
    notice(error.message);
  } finally {
    button.disabled = false;
  }
}

function link(format, digest, name) {
  const suffix = format === "onnx" ? "onnx" : "pt";
  const anchor = document.createElement("a");
  anchor.href = `/v1/artifacts/${digest}`;
  anchor.download = `${name}.${suffix}`;
  anchor.className = "button";
  anchor.textContent = `Download ${name}.${suffix}`;
  return anchor;
}

async function download(button) {
  const place = document.getElementById("export");
  button.disabled = true;
  try {
    let job = await ask(button.dataset.export, { formats: ["onnx", "torch"] });
    while (job.state === "QUEUED" || job.state === "LEASED") {
      const done = job.state === "QUEUED" ? "waits for a worker" : `is at work on ${job.worker}`;
      place.textContent = `Job ${job.id} ${done} …`;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      job = await ask(`/v1/jobs/${job.id}`);
    }
    if (job.state !== "SUCCEEDED") throw new Refused(`Job ${job.id} ended ${job.state}: ${job.reason}`);
    place.replaceChildren();
    for (const [format, digest] of Object.entries(job.result.files)) {
      const row = document.createElement("p");
      const differs = job.result.max_abs_diff[format];
      const note = document.createElement("span");
      note.className = "note";
      note.textContent = differs === undefined ? "" : ` outputs differ by at most ${differs.toExponential(1)}`;
      row.append(link(format, digest, button.dataset.name), note);
      place.append(row);
    }
  } catch (error) {
    place.textContent = "";
    notice(error.message);
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.post) post(button);
  if (button?.dataset.export) download(button);
});

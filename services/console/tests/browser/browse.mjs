// Opens pages in chromium and prints, for each page, width and scheme, what is wrong with it, as one JSON line.
// Input: {"executable", "url", "pages", "words", "until", "widths", "schemes", "pictures"}. `words` has the words that a
// page must contain: it is loaded again each second until it does, or until the time `until` (Unix milliseconds).
// `pictures`: a folder, or null for none.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const input = JSON.parse(readFileSync(0, "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: input.executable,
  args: ["--no-sandbox", "--disable-gpu"],
});

function views() {
  return input.widths.flatMap((width) =>
    input.schemes.flatMap((colorScheme) =>
      Object.entries(input.pages).map(([name, path]) => ({ name, path, width, colorScheme })),
    ),
  );
}

// Load a page until it has its words.
async function read(view) {
  const viewport = { width: view.width, height: view.width < 600 ? 844 : 900 };
  const context = await browser.newContext({ viewport, colorScheme: view.colorScheme });
  const page = await context.newPage();
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  for (;;) {
    errors.length = 0;
    const answer = await page.goto(input.url + view.path, { waitUntil: "load", timeout: 60000 });
    const text = await page.evaluate(() => document.body.innerText);
    const joined = text.split(/\s+/).join(" ");
    const missing = (input.words[view.name] ?? []).filter((word) => !joined.includes(word));
    if (!missing.length || Date.now() > input.until) {
      return { ...view, page, context, errors, text, readAt: Date.now() / 1000, status: answer.status() };
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function check({ name, width, colorScheme, page, context, errors, text, readAt, status }) {
  await page.evaluate(axe); // not a script tag: the pages' policy forbids other scripts
  const found = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    const told = violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((n) => n.html).slice(0, 3) }));
    const root = document.documentElement;
    return { violations: told, overflow: root.scrollWidth - root.clientWidth };
  });
  if (input.pictures) {
    await page.screenshot({ path: `${input.pictures}/${name}-${colorScheme}-${width}.png`, fullPage: true });
  }
  console.log(JSON.stringify({ name, width, scheme: colorScheme, status, errors: [...errors], text, read_at: readAt, ...found }));
  await context.close();
}

try {
  const waiting = views();
  while (waiting.length) {
    // Views are open at once, so that a short fault is seen by all of them; more would exceed the console's connections.
    for (const view of await Promise.all(waiting.splice(0, 8).map(read))) await check(view);
  }
} finally {
  await browser.close();
}

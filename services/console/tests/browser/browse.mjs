// Opens pages in chromium and prints, for each page, width and scheme, what is wrong with it, as one JSON line.
// Input: {"executable", "url", "pages", "widths", "schemes", "pictures"}; pictures: a folder, or null for none.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const input = JSON.parse(readFileSync(0, "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: input.executable,
  args: ["--no-sandbox", "--disable-gpu"],
});
try {
  for (const width of input.widths) {
    for (const colorScheme of input.schemes) {
      const viewport = { width, height: width < 600 ? 844 : 900 };
      const context = await browser.newContext({ viewport, colorScheme });
      const page = await context.newPage();
      const errors = [];
      page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
      page.on("pageerror", (error) => errors.push(String(error)));
      for (const [name, path] of Object.entries(input.pages)) {
        errors.length = 0;
        const answer = await page.goto(input.url + path, { waitUntil: "load", timeout: 60000 });
        await page.evaluate(axe); // not a script tag: the pages' policy forbids other scripts
        const found = await page.evaluate(async () => {
          const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
          const told = violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((n) => n.html).slice(0, 3) }));
          const root = document.documentElement;
          return { violations: told, overflow: root.scrollWidth - root.clientWidth, text: document.body.innerText };
        });
        if (input.pictures) {
          await page.screenshot({ path: `${input.pictures}/${name}-${colorScheme}-${width}.png`, fullPage: true });
        }
        console.log(JSON.stringify({ name, width, scheme: colorScheme, status: answer.status(), errors: [...errors], ...found }));
      }
      await context.close();
    }
  }
} finally {
  await browser.close();
}

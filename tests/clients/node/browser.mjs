// A headless Chromium with a fresh profile that opens one page. Arguments: chromium's path, the page's URL.
// Every console line of the page that is JSON is printed; {"evaluate": "expression"} runs in the page.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { onCommand, print } from "./lines.mjs";

const [executablePath, url] = process.argv.slice(2);
const profile = fs.mkdtempSync(path.join(os.tmpdir(), "ara-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: false, // the flag below is chromium's own new headless mode, on every version
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = context.pages()[0] ?? (await context.newPage());

page.on("console", (message) => {
  try {
    print(JSON.parse(message.text()));
  } catch {
    print({ console: message.text() });
  }
});
page.on("pageerror", (error) => print({ event: "page-error", message: String(error) }));

onCommand(async (command) => {
  if (command.evaluate) await page.evaluate(command.evaluate);
  if (command.quit) {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
    print({ event: "quit" });
    process.exit(0);
  }
});
await page.goto(url);
print({ event: "loaded", version: context.browser()?.version() ?? null });

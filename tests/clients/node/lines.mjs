// JSON lines: one value a line out, one command a line in.
import readline from "node:readline";

export const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

export const onCommand = (act) =>
  readline.createInterface({ input: process.stdin }).on("line", (line) => act(JSON.parse(line)));

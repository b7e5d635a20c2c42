// Reads {"language", "query"} objects as JSON lines and answers with the first place each does not parse, or null.
import readline from "node:readline";
import { parser as logql } from "@grafana/lezer-logql";
import { parser as traceql } from "@grafana/lezer-traceql";

const parsers = { loki: logql, tempo: traceql };

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { language, query } = JSON.parse(line);
  let wrong = null;
  parsers[language].parse(query).iterate({
    enter(node) {
      if (node.type.isError && wrong === null) wrong = node.from;
    },
  });
  console.log(JSON.stringify(wrong));
}

// The usual calls of OpenAI's package and of Vercel's AI SDK, as an application makes them.
//
// Usage: node calls.mjs URL MODEL BROKEN, with the key in PLATFORM_KEY. MODEL has a slash in its name, BROKEN is a model whose
// streams break off.
// Prints one JSON object with the result of each call.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [url, model, broken] = process.argv.slice(2);
const key = process.env.PLATFORM_KEY;
const HELLO = [{ role: "user", content: "Tell me about Paris." }];

// Returns the status, or else the name, of the error that a call throws; "" for none.
async function thrown(call) {
  try {
    await call();
  } catch (error) {
    return error.statusCode ?? error.status ?? error.constructor.name;
  }
  return "";
}

// Returns the result of a call, or what `thrown` returns.
async function outcome(call) {
  try {
    return await call();
  } catch (error) {
    return error.statusCode ?? error.status ?? error.constructor.name;
  }
}

async function collected(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

async function openai() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 60_000 });
  const chat = { model, messages: HELLO, max_tokens: 5, temperature: 0 };
  const whole = await client.chat.completions.create(chat);
  const chunks = await collected(await client.chat.completions.create({ ...chat, stream: true }));
  const events = await collected(
    await client.responses.create({ model, input: "hi", max_output_tokens: 5, stream: true }),
  );
  const offered = { type: "function", function: { name: "weather", parameters: { type: "object" } } };
  return {
    listed: (await collected(client.models.list())).map((entry) => entry.id).includes(model),
    retrieved: (await client.models.retrieve(model)).id,
    chat: [whole.model, whole.usage.completion_tokens],
    streamed: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("") === whole.choices[0].message.content,
    response: (await client.responses.create({ model, input: "hi", max_output_tokens: 5 })).model,
    response_stream: [events[0].type, events.at(-1).type],
    tools: await thrown(() => client.chat.completions.create({ ...chat, tools: [offered] })),
    unknown: await thrown(() => client.chat.completions.create({ ...chat, model: "unknown" })),
    broken: await thrown(async () =>
      collected(await client.chat.completions.create({ ...chat, model: broken, stream: true })),
    ),
  };
}

async function aiSdk(provider) {
  const asked = { prompt: "Tell me about Paris.", maxOutputTokens: 5, maxRetries: 0, temperature: 0 };
  const object = { ...asked, maxOutputTokens: 40 };
  const whole = await generateText({ model: provider(model), ...asked });
  const streamed = streamText({ model: provider(model), ...asked });
  const text = (await collected(streamed.textStream)).join("");
  const city = z.object({ name: z.enum(["Paris", "Rome"]) });
  const weather = tool({ inputSchema: city });
  const forced = { ...object, tools: { weather }, toolChoice: { type: "tool", toolName: "weather" } };
  let error;
  const cut = streamText({ model: provider(broken), ...asked, onError: (event) => (error = event.error) });
  await thrown(() => collected(cut.textStream));
  return {
    text: whole.text.length > 0,
    tokens: whole.usage.outputTokens,
    finish: whole.finishReason,
    streamed: [text === whole.text, (await streamed.usage).outputTokens],
    tools: await thrown(() => generateText({ model: provider(model), ...asked, tools: { weather } })),
    forced: await outcome(async () => {
      const { toolCalls } = await generateText({ model: provider(model), ...forced });
      return toolCalls.map((call) => [call.toolName, city.safeParse(call.input).success]);
    }),
    object: await outcome(async () => {
      const { object: found } = await generateObject({ model: provider(model), ...object, schema: city });
      return city.safeParse(found).success;
    }),
    unknown: await thrown(() => generateText({ model: provider("unknown"), ...asked })),
    broken: error !== undefined,
  };
}

const compatible = createOpenAICompatible({
  name: "platform", baseURL: `${url}/v1`, apiKey: key, includeUsage: true, supportsStructuredOutputs: true,
});
const responses = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: key });
const found = {
  openai: await openai(),
  compatible: await aiSdk((name) => compatible(name)),
  responses: await aiSdk((name) => responses.responses(name)),
  anthropic: await aiSdk((name) => anthropic(name)),
};
console.log(JSON.stringify(found));

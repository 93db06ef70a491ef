// The network as an async generator of frames, the same that a run's events carry:
//   started{requestId}  r{text}  c{text}  usage{usage}  end{finish}  error{code, message, requestId}
import { request } from "./api.js";

/**
 * Stream one chat completion. Throws ApiError when the request is refused, AbortError when `signal` aborts.
 * A stream that ends without [DONE] was cut: the last frame is then error{code: "interrupted"}.
 */
export async function* complete(body, { signal }) {
  const payload = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("POST", "/v1/chat/completions", payload, { signal });
  const requestId = response.headers.get("x-request-id");
  yield { t: "started", requestId };
  let finish = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        yield { t: "end", finish };
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) {
        const { code, type, message } = chunk.error;
        yield { t: "error", code: String(code ?? type ?? "engine_error"), message, requestId };
        return;
      }
      const choice = chunk.choices?.[0];
      const thought = choice?.delta?.reasoning ?? choice?.delta?.reasoning_content;
      if (thought) yield { t: "r", text: thought };
      if (choice?.delta?.content) yield { t: "c", text: choice.delta.content };
      if (choice?.finish_reason) finish = choice.finish_reason;
      if (chunk.usage) yield { t: "usage", usage: chunk.usage };
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    yield { t: "error", code: "interrupted", message: String(error), requestId };
    return;
  }
  yield { t: "error", code: "interrupted", message: "", requestId };
}

/** The `data` of each server-sent event in a byte stream, however the bytes are split. */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // the consumer left early, or the stream is already broken
  }
}

/** Server-sent events without I/O (WHATWG HTML §9.2.6): feed text, get the data of the events it completes. */
export class EventParser {
  #rest = "";
  #data = [];

  feed(text) {
    const complete = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop(); // an unfinished line, or one whose "\r" may be half of "\r\n"
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) complete.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return complete;
  }
}

/** What an answer of the server says, and how large it is. */

const encoder = new TextEncoder();

/** What a JSON text says, or null when it is none. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const typeOf = (response) => response.headers.get("Content-Type") ?? "";
export const isJson = (response) => /^application\/([\w.-]+\+)?json\b/i.test(typeOf(response));
export const isEventStream = (response) => /^text\/event-stream\b/i.test(typeOf(response));

/** Milliseconds that the server says an answer took its processor (https://www.w3.org/TR/server-timing/). */
export function cpuTime(response) {
  const [, duration] = response.headers.get("Server-Timing")?.match(/\bcpu;dur=([\d.]+)/) ?? [];
  return duration && Number(duration);
}

/** Milliseconds, RFC 9110 10.2.3: a number of seconds or a date. */
export function retryAfter(response) {
  const value = response.headers.get("Retry-After") ?? "";
  return Number(value) * 1000 || Date.parse(value) - Date.now() || 0;
}

/** Bytes of an event on the wire. */
export function frameSize({ type, data, lastEventId }, hasId) {
  const fields = data.split("\n").map((line) => `data: ${line}\n`);
  if (type !== "message") fields.unshift(`event: ${type}\n`);
  if (hasId) fields.unshift(`id: ${lastEventId}\n`);
  return encoder.encode(fields.join("") + "\n").length;
}

/** Bytes of an answer to a poll, of which `Content-Length` also tells what compression has saved. */
export function answerSize(response, body) {
  return headSize(response) + (Number(response.headers.get("Content-Length")) || encoder.encode(body).length);
}

/**
 * Bytes of the head of a response, written as HTTP/1.1, as far as a script may see it. A feed cannot see that of its
 * stream: to count it as well, ask for it with HEAD, which opens no stream.
 *
 * @param {Response} response
 */
export function headSize(response) {
  let head = `HTTP/1.1 ${response.status} ${response.statusText}\r\n`;
  for (const [name, value] of response.headers) {
    if (name !== "server-timing") head += `${name}: ${value}\r\n`; // what tells of costs should not add to them
  }
  return encoder.encode(`${head}\r\n`).length;
}

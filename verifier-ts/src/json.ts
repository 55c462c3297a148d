/** The JSON form (section 8): a file is valid only if it equals its own rendering. */

import { invalid } from "./errors.js";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

const MAX_DEPTH = 16;
const SHORT: ReadonlyMap<string, string> = new Map([
  ['"', '\\"'], ["\\", "\\\\"], ["\n", "\\n"], ["\r", "\\r"], ["\t", "\\t"], ["\b", "\\b"],
  ["\f", "\\f"],
]);

function text(value: string): string {
  const escaped = value.replace(/["\\]|[^ -~]/g, (unit) => {
    return SHORT.get(unit) ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
  return `"${escaped}"`;
}

function block(open: string, lines: readonly string[], close: string, indent: string): string {
  if (lines.length === 0) return open + close;
  return `${open}\n${indent}  ${lines.join(`,\n${indent}  `)}\n${indent}${close}`;
}

function render(value: Json, depth: number): string {
  if (depth > MAX_DEPTH) throw invalid("encoding", "the JSON is nested too deep");
  const indent = "  ".repeat(depth);
  if (typeof value === "string") return text(value);
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) {
    return block("[", value.map((item) => render(item, depth + 1)), "]", indent);
  }
  // Default order is by UTF-16 units; the names of the format are ASCII, others are refused.
  const lines = Object.keys(value).sort().map((name) => {
    return `${text(name)}: ${render(value[name] ?? null, depth + 1)}`;
  });
  return block("{", lines, "}", indent);
}

/** The value of a JSON file; E_ERS_INVALID unless the file is byte-equal to its rendering. */
export function parse(data: Uint8Array): Json {
  const source = Buffer.from(data).toString("latin1");
  let value: Json;
  try {
    value = JSON.parse(source) as Json;
  } catch {
    throw invalid("encoding", "the file is not JSON");
  }
  // Refuses duplicate names, floats, other escapes and bytes above 7F: they render otherwise.
  if (`${render(value, 0)}\n` !== source) {
    throw invalid("encoding", "the JSON is not equal to its own rendering");
  }
  return value;
}

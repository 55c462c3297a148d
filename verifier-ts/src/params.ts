/** Section 3: the parameters, from here and from nowhere else. */

import { invalid } from "./errors.js";

/** `leaves` is N, `closed` is tau. */
export interface Params {
  readonly leaves: number;
  readonly closed: number;
}

const TABLE: ReadonlyMap<unknown, Params> = new Map([
  ["fast", { leaves: 136, closed: 55 }],
  ["balanced", { leaves: 256, closed: 30 }],
  ["compact", { leaves: 1024, closed: 19 }],
]);

export function params(name: unknown): Params {
  const row = TABLE.get(name);
  if (row === undefined) throw invalid("params", "unknown parameter set");
  return row;
}

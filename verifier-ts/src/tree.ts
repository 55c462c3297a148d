/** Section 7.1: the two trees over the leaves, and what stands in for the open ones. */

import { hash } from "./transcript.js";

/** Nodes whose subtree has no closed leaf while their parent's has one, rising. */
export function cover(leaves: number, closed: readonly number[]): number[] {
  const hidden = new Set<number>();
  for (const k of closed) {
    for (let i = leaves + k - 1; i > 0 && !hidden.has(i); i >>= 1) hidden.add(i);
  }
  const out: number[] = [];
  for (let i = 2; i < 2 * leaves; i++) {
    if (!hidden.has(i) && hidden.has(i >> 1)) out.push(i);
  }
  return out;
}

/** Adds the seeds below those that are there. */
export function grow(ctx: Uint8Array, leaves: number, seeds: Map<number, Uint8Array>): void {
  for (let j = 2; j < 2 * leaves; j++) {
    const parent = seeds.get(j >> 1);
    if (parent !== undefined && !seeds.has(j)) seeds.set(j, hash("ers/tree", ctx, j, parent));
  }
}

/** The root over values of leaves and of the cover's nodes. */
export function merkleRoot(
  ctx: Uint8Array,
  leaves: number,
  values: Map<number, Uint8Array>,
): Uint8Array {
  for (let i = leaves - 1; i > 0; i--) {
    const [left, right] = [values.get(2 * i), values.get(2 * i + 1)];
    if (!values.has(i) && left !== undefined && right !== undefined) {
      values.set(i, hash("ers/merkle", ctx, i, left, right));
    }
  }
  const root = values.get(1);
  if (root === undefined) throw new Error("internal error: the Merkle tree has a gap");
  return root;
}

/** The errors of this verifier: codes, exit codes and their JSON form are those of `keycairn`. */

const EXIT = { E_ERS_INVALID: 5, E_MALFORMED: 2, E_TOO_LARGE: 2, E_WEAK_RSA: 2 } as const;

export type Code = keyof typeof EXIT;

/** Where a document is invalid: the check (section 9.2), the part's node, the key. */
export interface Place {
  readonly check: string;
  readonly node: number | null;
  readonly key: string | null;
}

export class VerifierError extends Error {
  constructor(
    readonly code: Code,
    message: string,
    readonly detail: Readonly<Record<string, unknown>> = {},
    readonly next = "",
  ) {
    super(message);
  }

  get exitCode(): number {
    return EXIT[this.code];
  }

  toJson(): object {
    const notLost = this.code === "E_ERS_INVALID" ? "Nothing was decrypted and no key was changed." : "";
    return {
      error: {
        code: this.code,
        message: this.message,
        not_lost: notLost,
        next: this.next,
        node: null,
        detail: this.detail,
      },
    };
  }
}

/** An E_ERS_INVALID error, to be thrown. */
export function invalid(
  check: string,
  message: string,
  place: { node?: number; key?: string } = {},
): VerifierError {
  const detail = { check, node: place.node ?? null, key: place.key ?? null };
  return new VerifierError("E_ERS_INVALID", message, detail, "use another copy of the document");
}

/** Wrong use, or a file of the caller's that cannot be used. */
export function malformed(message: string): VerifierError {
  return new VerifierError("E_MALFORMED", message);
}

/** Run `work`; an invalid document's error that does not say yet which node's part it is, says it. */
export function atNode<T>(node: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof VerifierError && error.detail["node"] === null) {
      const { check, key } = error.detail as unknown as Place;
      const where = `${error.message} (part of node ${node})`;
      throw invalid(check, where, key === null ? { node } : { node, key });
    }
    throw error;
  }
}

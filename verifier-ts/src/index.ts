/** A verifier of keycairn's ERS documents, written from docs/ers-format.md. */

export type { KeyStatement } from "./context.js";
export { type Document, load, type Part } from "./document.js";
export { type Code, VerifierError } from "./errors.js";
export { loadRsaPublicKey, type RsaPublicKey } from "./rsa.js";
export { type Expected, type ExpectedKey, type KeyReport, type Report, verify } from "./verify.js";

// Runs many verifications in one process: jobs as JSON lines on stdin, answers as JSON lines on
// stdout. Binary values are base64. A job: {file, rsa, label, vault, keys}; null is "not given".
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [index] = process.argv.slice(2);
const { load, loadRsaPublicKey, verify, VerifierError } = await import(pathToFileURL(index).href);

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const NAMES = { curve: "curve", generation: "generation", public_key: "publicKey", record_hash: "recordHash" };

function expected({ rsa, label, vault, keys }) {
  return {
    ...(rsa === null ? {} : { rsa: loadRsaPublicKey(bytes(rsa)) }),
    ...(label === null ? {} : { label }),
    ...(vault === null ? {} : { vault }),
    keys: keys.map(([keyId, field, value]) => {
      if (field === undefined) return { keyId };
      const binary = field === "public_key" || field === "record_hash";
      return { keyId, [NAMES[field]]: binary ? bytes(value) : value };
    }),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  let answer;
  try {
    answer = verify(load(bytes(job.file)), expected(job));
  } catch (error) {
    if (!(error instanceof VerifierError)) throw error;
    answer = error.toJson();
  }
  console.log(JSON.stringify(answer));
}

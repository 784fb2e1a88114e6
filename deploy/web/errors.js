/** A mistake in what the user gave: its message is one line for the page. */
export class UserError extends Error {}

/** Return any error as one line. */
export function oneLine(error) {
  return String(error?.message ?? error).replace(/\s+/g, " ").trim();
}

/** How often others fetch a published bundle where nothing else is said (SPIFFE_Trust_Domain_and_Bundle.md section 4.1.2). */
const DEFAULT_REFRESH_HINT_SECONDS = 300;
/** SPIFFE_Federation.md section 5.2.4 recommends to publish new keys three to five refresh hints before they are used. */
const HINTS_AHEAD = 3;

/** What publishing its bundle means for an authority: it says how often to come, and keeps a new root unused for long enough. */
export function publication(endpoint: { readonly refreshHintSeconds: number | null } | null): {
  refreshHintSeconds?: number;
  publishSeconds?: number;
} {
  if (endpoint === null) return {};
  const refreshHintSeconds = endpoint.refreshHintSeconds ?? DEFAULT_REFRESH_HINT_SECONDS;
  return { refreshHintSeconds, publishSeconds: HINTS_AHEAD * refreshHintSeconds };
}

/**
 * What one directory may cost the node agent. Each limit is refused with WEFT_CONFIG_TOO_LARGE, and before the work it guards against.
 */

/** A larger file is not opened. */
export const MAX_FILE_BYTES: number = 32 * 1024 * 1024;

/** A larger document (between `---` lines) is not parsed: text alone takes up to 0.3 s a MiB. Kubernetes itself stops at 1.5 MiB an object. */
export const MAX_DOCUMENT_LENGTH: number = 4 * 1024 * 1024;

/**
 * Lexical tokens in one document and in one file. A token costs about 450 bytes while its document is parsed, and 2 microseconds. A workload
 * is about 100 tokens.
 */
export const MAX_DOCUMENT_TOKENS: number = 1_000_000;
export const MAX_FILE_TOKENS: number = 2_000_000;

/** Mappings and sequences inside one another. The deepest field of any kind, in a List, sits at 11. */
export const MAX_NESTING: number = 64;

/** Values that all aliases of one document together stand for. */
export const MAX_ALIASED_VALUES: number = 10_000;

/** Problems reported for one file; the rest are counted. */
export const MAX_PROBLEMS_PER_FILE: number = 100;

/** Files read from one directory. */
export const MAX_FILES: number = 10_000;

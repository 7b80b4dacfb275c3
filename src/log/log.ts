import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;

/** The log of a process: JSON lines on standard error, so that standard output can carry the access log. */
export function createLog(level: string, destination: DestinationStream = pino.destination(2)): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Key material has no business in a log line; should it ever get there, it stops here.
      redact: { paths: ['privateKey', '*.privateKey', 'key', '*.key'], censor: '[redacted]' },
    },
    destination,
  );
}

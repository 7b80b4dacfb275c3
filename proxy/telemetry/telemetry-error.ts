import { WeftError } from '../../src/model/errors.ts';

/** Raised when telemetry is put together wrongly. Codes: WEFT_TELEMETRY_*. Never raised on the data path. */
export class TelemetryError extends WeftError {
  override readonly name = 'TelemetryError';
}

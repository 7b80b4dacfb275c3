import { WeftError } from '../model/errors.ts';

/** Raised by the room `config` for what is not the content of one file. Codes: WEFT_CONFIG_*. */
export class ConfigError extends WeftError {
  override readonly name = 'ConfigError';
}

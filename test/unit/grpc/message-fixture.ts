import { type EnumType, enumType, type MessageType, messageType } from '../../../src/grpc/message.ts';

/** One field of every sort. */
export interface Everything {
  readonly text: string;
  readonly someBytes: Uint8Array;
  readonly flag: boolean;
  readonly small: number;
  readonly smallUnsigned: number;
  readonly large: bigint;
  readonly largeUnsigned: bigint;
  readonly real: number;
  readonly colour: number;
  readonly maybeText: string | null;
  readonly maybeNumber: number | null;
  readonly child: Everything | null;
  readonly texts: readonly string[];
  readonly numbers: readonly number[];
  readonly reals: readonly number[];
  readonly bigs: readonly bigint[];
  readonly children: readonly Everything[];
  readonly labels: ReadonlyMap<string, string>;
  readonly blobs: ReadonlyMap<string, Uint8Array>;
  readonly named: ReadonlyMap<string, Everything>;
  readonly eitherText: string | null;
  readonly eitherNumber: number | null;
}

export const COLOUR: EnumType = enumType('test.Colour', { COLOUR_UNSPECIFIED: 0, RED: 1, BLUE: 5 });

export const EVERYTHING: MessageType<Everything> = messageType('test.Everything', () => ({
  text: { number: 1, kind: 'string' },
  someBytes: { number: 2, kind: 'bytes' },
  flag: { number: 3, kind: 'bool' },
  small: { number: 4, kind: 'int32' },
  smallUnsigned: { number: 5, kind: 'uint32' },
  large: { number: 6, kind: 'int64' },
  largeUnsigned: { number: 7, kind: 'uint64' },
  real: { number: 8, kind: 'double' },
  colour: { number: 9, kind: COLOUR },
  maybeText: { number: 10, kind: 'string', optional: true },
  maybeNumber: { number: 11, kind: 'int32', optional: true },
  child: { number: 12, kind: EVERYTHING },
  texts: { number: 13, kind: 'string', repeated: true },
  numbers: { number: 14, kind: 'int32', repeated: true },
  reals: { number: 15, kind: 'double', repeated: true },
  bigs: { number: 16, kind: 'uint64', repeated: true },
  children: { number: 17, kind: EVERYTHING, repeated: true },
  labels: { number: 18, kind: 'string', map: true },
  blobs: { number: 19, kind: 'bytes', map: true },
  named: { number: 20, kind: EVERYTHING, map: true },
  eitherText: { number: 21, kind: 'string', oneof: 'either' },
  eitherNumber: { number: 536_870_911, kind: 'int32', oneof: 'either' },
}));

/** Everything at its default: what an empty message is. */
export const NOTHING: Everything = {
  text: '',
  someBytes: new Uint8Array(0),
  flag: false,
  small: 0,
  smallUnsigned: 0,
  large: 0n,
  largeUnsigned: 0n,
  real: 0,
  colour: 0,
  maybeText: null,
  maybeNumber: null,
  child: null,
  texts: [],
  numbers: [],
  reals: [],
  bigs: [],
  children: [],
  labels: new Map(),
  blobs: new Map(),
  named: new Map(),
  eitherText: null,
  eitherNumber: null,
};

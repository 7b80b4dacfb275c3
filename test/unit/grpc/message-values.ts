import fc from 'fast-check';
import type { Everything } from './message-fixture.ts';

const text = fc.string({ unit: 'grapheme' });
const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
/** Any message of the type, nested a little. */
export const everythings: fc.Arbitrary<Everything> = fc.letrec<{ everything: Everything }>((tie) => ({
  everything: fc
    .record({
      text,
      someBytes: fc.uint8Array(),
      flag: fc.boolean(),
      small: int32,
      smallUnsigned: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      large: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      largeUnsigned: uint64,
      real: fc.double(),
      colour: int32,
      maybeText: fc.option(text),
      maybeNumber: fc.option(int32),
      child: fc.option(tie('everything'), { maxDepth: 2 }),
      texts: fc.array(text),
      numbers: fc.array(int32),
      reals: fc.array(fc.double()),
      bigs: fc.array(uint64),
      children: fc.oneof({ maxDepth: 2 }, fc.constant([]), fc.array(tie('everything'), { maxLength: 2 })),
      labels: fc.array(fc.tuple(text, text)).map((entries) => new Map(entries)),
      blobs: fc.array(fc.tuple(text, fc.uint8Array())).map((entries) => new Map(entries)),
      named: fc.oneof(
        { maxDepth: 2 },
        fc.constant(new Map()),
        fc.array(fc.tuple(text, tie('everything')), { maxLength: 2 }).map((entries) => new Map(entries)),
      ),
      either: fc.option(fc.oneof(text, int32)),
    })
    .map(({ either, ...rest }) =>
      Object.assign(rest, {
        eitherText: typeof either === 'string' ? either : null,
        eitherNumber: typeof either === 'number' ? either : null,
      }),
    ),
})).everything;

/** A small generator of pseudo-random numbers (mulberry32): a run is repeated from its seed. */
export type Random = (below: number) => number;

export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** A text changed in a few places, with pieces of a dictionary and of other texts of a corpus. */
export function mutate(text: string, random: Random, corpus: readonly string[], dictionary: readonly string[]): string {
  let mutated = text;
  for (let round = random(4); round >= 0; round--) {
    const at = random(mutated.length + 1);
    const length = random(8);
    switch (random(8)) {
      case 0:
        mutated = mutated.slice(0, at) + String.fromCharCode(random(256)) + mutated.slice(at + 1);
        break;
      case 1:
        mutated = mutated.slice(0, at) + mutated.slice(at + length);
        break;
      case 2:
        mutated = mutated.slice(0, at) + mutated.slice(at, at + length * 4) + mutated.slice(at);
        break;
      case 3: {
        const lines = mutated.split('\r\n');
        const line = random(lines.length);
        lines.splice(random(lines.length), 0, lines[line] as string);
        mutated = lines.join('\r\n');
        break;
      }
      case 4: {
        const lines = mutated.split('\r\n');
        lines.splice(random(lines.length), 1);
        mutated = lines.join('\r\n');
        break;
      }
      case 5:
        mutated += corpus[random(corpus.length)] as string;
        break;
      default:
        mutated = mutated.slice(0, at) + (dictionary[random(dictionary.length)] as string) + mutated.slice(at);
    }
  }
  return mutated.slice(0, 20_000);
}

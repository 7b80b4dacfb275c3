import { type IpAddress, IpBlockSet, parseIpAddress } from './ip-block.ts';

/** Blocks and not-blocks of one address. */
export class AddressMatcher {
  readonly blocks: IpBlockSet | null;
  readonly notBlocks: IpBlockSet | null;
  readonly #ifUnknown: boolean;
  /** Requests of one connection mostly come from one address: the last one asked about is kept with its answer. */
  #lastText = '';
  #lastAnswer: boolean;

  /**
   * @param ifUnknown the answer for what is no address
   * @throws PolicyError WEFT_POLICY_ADDRESS or _VALUE
   */
  constructor(
    field: string,
    blocks: readonly string[] | undefined,
    notField: string,
    notBlocks: readonly string[] | undefined,
    ifUnknown: boolean,
  ) {
    this.blocks = blocks === undefined ? null : new IpBlockSet(field, blocks);
    this.notBlocks = notBlocks === undefined ? null : new IpBlockSet(notField, notBlocks);
    this.#ifUnknown = ifUnknown;
    this.#lastAnswer = ifUnknown;
  }

  matches(address: IpAddress | null): boolean {
    if (address === null) return this.#ifUnknown;
    if (this.blocks !== null && !this.blocks.has(address)) return false;
    return !this.notBlocks?.has(address);
  }

  matchesText(text: string): boolean {
    if (text !== this.#lastText) {
      this.#lastAnswer = this.matches(parseIpAddress(text));
      this.#lastText = text;
    }
    return this.#lastAnswer;
  }
}

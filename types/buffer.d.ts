/** Methods of Node's Buffer that exist and are the fastest way between Latin-1 text and bytes, but are not in @types/node. */
interface Buffer {
  latin1Slice(start?: number, end?: number): string;
  latin1Write(text: string, offset?: number, length?: number): number;
}

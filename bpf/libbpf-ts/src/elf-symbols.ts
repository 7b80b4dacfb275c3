import { LibbpfError } from './errors.ts';

/** A data symbol of an object file. */
export interface ElfSymbol {
  readonly name: string;
  /** Section it lives in, such as `.rodata`. */
  readonly section: string;
  /** Offset in that section, in bytes. */
  readonly offset: number;
  /** In bytes. */
  readonly size: number;
}

const SHT_SYMTAB = 2;
const SHT_NOBITS = 8;
const STT_OBJECT = 1;
const SECTION_HEADER_SIZE = 64;
const SYMBOL_SIZE = 24;

interface Section {
  readonly name: number;
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
}

function malformed(reason: string): LibbpfError {
  return new LibbpfError('LIBBPF_OBJECT_FORMAT', `not a BPF object file: ${reason}`);
}

/**
 * The variables of a BPF object file by name, read from the symbol table of its ELF64 little-endian image. Where two sections hold
 * the same (static) name, the first one wins. Throws LIBBPF_OBJECT_FORMAT for anything malformed; never reads outside `image`.
 */
export function readElfVariables(image: Uint8Array): ReadonlyMap<string, ElfSymbol> {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length < 64 || view.getUint32(0, false) !== 0x7f454c46) throw malformed('no ELF header');
  if (image[4] !== 2 || image[5] !== 1) throw malformed('it is not 64-bit little-endian');
  const sections = readSections(view);
  const names = sections[view.getUint16(62, true)];
  const table = sections.find((section) => section.type === SHT_SYMTAB);
  if (names === undefined || table === undefined) throw malformed('it has no symbol table');
  const strings = sections[table.link];
  if (strings === undefined) throw malformed('its symbol table has no names');

  const variables = new Map<string, ElfSymbol>();
  for (let offset = table.offset; offset + SYMBOL_SIZE <= table.offset + table.size; offset += SYMBOL_SIZE) {
    const section = sections[view.getUint16(offset + 6, true)];
    if ((view.getUint8(offset + 4) & 0xf) !== STT_OBJECT || section === undefined) continue;
    const name = readName(image, strings, view.getUint32(offset, true));
    if (variables.has(name)) continue;
    variables.set(name, {
      name,
      section: readName(image, names, section.name),
      offset: Number(view.getBigUint64(offset + 8, true)),
      size: Number(view.getBigUint64(offset + 16, true)),
    });
  }
  return variables;
}

function readSections(view: DataView): Section[] {
  const start = Number(view.getBigUint64(40, true));
  const count = view.getUint16(60, true);
  if (view.getUint16(58, true) !== SECTION_HEADER_SIZE || start + count * SECTION_HEADER_SIZE > view.byteLength) {
    throw malformed('its section table is cut off');
  }
  const sections: Section[] = [];
  for (let offset = start; offset < start + count * SECTION_HEADER_SIZE; offset += SECTION_HEADER_SIZE) {
    const section: Section = {
      name: view.getUint32(offset, true),
      type: view.getUint32(offset + 4, true),
      offset: Number(view.getBigUint64(offset + 24, true)),
      size: Number(view.getBigUint64(offset + 32, true)),
      link: view.getUint32(offset + 40, true),
    };
    if (section.type !== SHT_NOBITS && section.offset + section.size > view.byteLength) throw malformed('a section is cut off');
    sections.push(section);
  }
  return sections;
}

function readName(image: Uint8Array, strings: Section, index: number): string {
  const start = strings.offset + index;
  const limit = Math.min(strings.offset + strings.size, image.length);
  const end = image.indexOf(0, start);
  if (start >= limit || end < 0 || end >= limit) throw malformed('a name is cut off');
  return new TextDecoder().decode(image.subarray(start, end));
}

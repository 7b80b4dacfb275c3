import { Authority } from '../../certs/authority/authority.ts';
import { readMaterial } from '../../certs/issuance/authority-source.ts';
import type { Material } from '../model/authority-api.ts';

/** The directory of an authority that no process serves on a socket here. */
export interface DirectoryOptions {
  readonly directory: string;
  readonly trustDomain: string;
  /** Of the keys in the directory; null: they are not encrypted. */
  readonly passphrase: (() => Promise<string>) | null;
}

/** A name that no node has: the directory is opened for a moment, by nobody in particular. */
const NODE_NAME = 'weft-ca-command';

/**
 * Makes a given certificate authority the active one of a directory, at once: for a directory before its first use. Where there are nodes,
 * they would refuse its SVIDs until they have its root; rotating to it is for them.
 * @returns the id of its slot
 * @throws CertsError why it cannot be used
 */
export async function importAuthority(options: DirectoryOptions, material: Material): Promise<string> {
  await using authority = await Authority.open({ ...options, nodeName: NODE_NAME });
  const { id } = await authority.prepare(readMaterial(material));
  await authority.activate(id);
  return id;
}

/**
 * The active authority of a directory: its key, PKCS#8 PEM encrypted with a passphrase, and its chain to the root, PEM.
 * @throws CertsError why it cannot be read
 */
export function exportAuthority(options: DirectoryOptions, passphrase: string): Promise<string> {
  return withActive(options, async (authority, id) => (await authority.exportKey(id, passphrase)) + authority.chain(id));
}

/**
 * The same as one PKCS#12 file.
 * @throws CertsError why it cannot be read
 */
export function exportKeyStore(options: DirectoryOptions, password: string): Promise<Uint8Array> {
  return withActive(options, (authority, id) => authority.exportKeyStore(id, password));
}

async function withActive<Result>(options: DirectoryOptions, work: (authority: Authority, id: string) => Promise<Result>): Promise<Result> {
  await using authority = await Authority.open({ ...options, nodeName: NODE_NAME });
  const active = authority.status().slots.find(({ state }) => state === 'active');
  if (active === undefined) throw new Error('the authority has no active slot');
  return await work(authority, active.id);
}

/** The entry of this room: the authority as a process, and work on its directory while it does not run. */
export { type AuthorityProcess, type AuthorityProcessOptions, serveAuthority } from './serve-authority.ts';
export { type DirectoryOptions, exportAuthority, exportKeyStore, importAuthority } from './authority-directory.ts';

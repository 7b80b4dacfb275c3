/** Where and how a node or an authority publishes the bundle of its trust domain (SPIFFE_Federation.md section 5.2). */
export interface BundleEndpointSettings {
  readonly host: string;
  readonly port: number;
  /** Of its URL. */
  readonly path: string;
  /** `svid`: profile https_spiffe, with an SVID of this identity. `files`: profile https_web, PEM files of the operator. */
  readonly certificate:
    | { readonly kind: 'svid'; readonly identity: string }
    | { readonly kind: 'files'; readonly certificateFile: string; readonly keyFile: string };
  /** How often others should fetch it, in seconds; null: as the bundle says. */
  readonly refreshHintSeconds: number | null;
}

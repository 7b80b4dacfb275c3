const CERTIFICATE_BLOCK = /-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]*)-----END CERTIFICATE-----/g;

/** The DER of every CERTIFICATE block of a PEM text (RFC 7468), in order. Text between blocks is allowed and ignored, as the RFC has it. */
export function certificatesFromPem(pem: string): Uint8Array[] {
  const certificates: Uint8Array[] = [];
  for (const match of pem.matchAll(CERTIFICATE_BLOCK)) certificates.push(Buffer.from(match[1] as string, 'base64'));
  return certificates;
}

/** The DER of certificates as one PEM text. */
export function certificatesToPem(certificates: readonly Uint8Array[]): string {
  return certificates.map((der) => toPem('CERTIFICATE', der)).join('');
}

/** One PEM block with 64 characters a line. */
export function toPem(label: string, der: Uint8Array): string {
  const base64 = Buffer.from(der.buffer, der.byteOffset, der.byteLength).toString('base64');
  let text = `-----BEGIN ${label}-----\n`;
  for (let at = 0; at < base64.length; at += 64) text += `${base64.slice(at, at + 64)}\n`;
  return `${text}-----END ${label}-----\n`;
}

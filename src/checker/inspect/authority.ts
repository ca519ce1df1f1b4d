import { createHash, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';
import { createSecureContext, type SecureContext } from 'node:tls';
import { AsnConvert, OctetString } from '@peculiar/asn1-schema';
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  Extension,
  Extensions,
  GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  ExtendedKeyUsage,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
} from '@peculiar/asn1-x509';

/**
 * The certificate authority of one run. Its key is made here, is never written or handed out, and is gone with the run
 * or the process; so a run that outlives the process can be given a new authority and nothing else.
 */
export type Authority = {
  readonly certificatePem: string;
  /** What a server that is this name shows. Made once a name and renewed before it runs out. */
  contextFor(name: string, nowMs: number): SecureContext;
};

const HOUR_MS = 3_600_000;
/** A clock in the container is the host's, but what a client caches may be older. */
const BACKDATED_MS = HOUR_MS;
const LEAF_LIFE_MS = 24 * HOUR_MS;
const LEAF_RENEWED_MS = 12 * HOUR_MS;
/** Longer than the longest `budget.wall`. */
const AUTHORITY_LIFE_MS = 400 * 24 * HOUR_MS;
/** Under a wildcard an agent chooses the names; the gate bounds them as well. */
const LEAVES_MAX = 512;
const SERIAL_BYTES = 16;

const ECDSA_WITH_SHA256 = '1.2.840.10045.4.3.2';
const COMMON_NAME = '2.5.4.3';
const COMMON_NAME_CHARS_MAX = 64;
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

type Signer = { readonly key: KeyObject; readonly name: Name; readonly keyId: OctetString };
type Leaf = { readonly context: SecureContext; readonly madeAtMs: number };

export function makeAuthority({ runId, nowMs }: { readonly runId: string; readonly nowMs: number }): Authority {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKeyInfo(publicKey);
  const signer: Signer = { key: privateKey, name: commonName(`Ringfence ${runId}`), keyId: keyIdOf(spki) };
  const certificatePem = pemOf(
    issue(signer, {
      subject: signer.name,
      spki,
      fromMs: nowMs - BACKDATED_MS,
      toMs: nowMs + AUTHORITY_LIFE_MS,
      extensions: [
        // It signs names and no further authority.
        extension(id_ce_basicConstraints, new BasicConstraints({ cA: true, pathLenConstraint: 0 }), { critical: true }),
        extension(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.keyCertSign), { critical: true }),
        extension(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(signer.keyId), { critical: false }),
      ],
    }),
  );
  const leaves = new Map<string, Leaf>();
  return {
    certificatePem,
    contextFor: (name, atMs) => {
      const known = leaves.get(name);
      if (known !== undefined && isFresh(known, atMs)) return known.context;
      const oldest = leaves.keys().next().value;
      if (leaves.size >= LEAVES_MAX && oldest !== undefined) leaves.delete(oldest);
      const context = leafContext(signer, name, atMs);
      leaves.set(name, { context, madeAtMs: atMs });
      return context;
    },
  };
}

// A clock that was set back makes a certificate one of the future.
function isFresh({ madeAtMs }: Leaf, atMs: number): boolean {
  return atMs > madeAtMs - BACKDATED_MS && atMs < madeAtMs + LEAF_RENEWED_MS;
}

function leafContext(signer: Signer, name: string, nowMs: number): SecureContext {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKeyInfo(publicKey);
  const names = new SubjectAlternativeName([new GeneralName({ dNSName: name })]);
  const authorityKey = new AuthorityKeyIdentifier({ keyIdentifier: new KeyIdentifier(signer.keyId) });
  const cert = pemOf(
    issue(signer, {
      // Clients read the alternative name; the common name is for people, and too short for every name.
      subject: commonName(name.slice(0, COMMON_NAME_CHARS_MAX)),
      spki,
      fromMs: nowMs - BACKDATED_MS,
      toMs: nowMs + LEAF_LIFE_MS,
      extensions: [
        extension(id_ce_basicConstraints, new BasicConstraints({ cA: false }), { critical: true }),
        extension(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.digitalSignature), { critical: true }),
        extension(id_ce_extKeyUsage, new ExtendedKeyUsage([SERVER_AUTH]), { critical: false }),
        extension(id_ce_subjectAltName, names, { critical: false }),
        extension(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyIdOf(spki)), { critical: false }),
        extension(id_ce_authorityKeyIdentifier, authorityKey, { critical: false }),
      ],
    }),
  );
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' });
  return createSecureContext({ key, cert, minVersion: 'TLSv1.2' });
}

type Subject = {
  readonly subject: Name;
  readonly spki: SubjectPublicKeyInfo;
  readonly fromMs: number;
  readonly toMs: number;
  readonly extensions: readonly Extension[];
};

/** A certificate in DER. */
function issue(signer: Signer, { subject, spki, fromMs, toMs, extensions }: Subject): Buffer {
  const algorithm = new AlgorithmIdentifier({ algorithm: ECDSA_WITH_SHA256 });
  const tbsCertificate = new TBSCertificate({
    version: Version.v3,
    serialNumber: serialNumber(),
    signature: algorithm,
    issuer: signer.name,
    validity: new Validity({ notBefore: wholeSecond(fromMs), notAfter: wholeSecond(toMs) }),
    subject,
    subjectPublicKeyInfo: spki,
    extensions: new Extensions([...extensions]),
  });
  const signed = Buffer.from(AsnConvert.serialize(tbsCertificate));
  const signature = sign('sha256', signed, { key: signer.key, dsaEncoding: 'der' });
  const certificate = new Certificate({
    tbsCertificate,
    signatureAlgorithm: algorithm,
    signatureValue: arrayBufferOf(signature),
  });
  return Buffer.from(AsnConvert.serialize(certificate));
}

function extension(extnID: string, value: unknown, { critical }: { readonly critical: boolean }): Extension {
  return new Extension({ extnID, critical, extnValue: new OctetString(AsnConvert.serialize(value)) });
}

// Positive and of full length whatever the bytes are (RFC 5280, 4.1.2.2).
function serialNumber(): ArrayBuffer {
  const bytes = randomBytes(SERIAL_BYTES);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return arrayBufferOf(bytes);
}

function commonName(text: string): Name {
  const value = new AttributeValue({ utf8String: text });
  return new Name([new RelativeDistinguishedName([new AttributeTypeAndValue({ type: COMMON_NAME, value })])]);
}

function publicKeyInfo(key: KeyObject): SubjectPublicKeyInfo {
  return AsnConvert.parse(key.export({ type: 'spki', format: 'der' }), SubjectPublicKeyInfo);
}

/** RFC 7093, 2: the leftmost 160 bits of the SHA-256 of the key. */
function keyIdOf(spki: SubjectPublicKeyInfo): OctetString {
  return new OctetString(createHash('sha256').update(Buffer.from(spki.subjectPublicKey)).digest().subarray(0, 20));
}

function wholeSecond(atMs: number): Date {
  return new Date(Math.floor(atMs / 1000) * 1000);
}

function pemOf(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function arrayBufferOf(bytes: Buffer): ArrayBuffer {
  return Uint8Array.from(bytes).buffer;
}

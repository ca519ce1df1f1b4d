/** Hellos made by hand for tests: right by default, wrong where a test says so. */
type Extension = { readonly type: number; readonly data: Buffer };

type HelloParts = {
  readonly extensions: readonly Extension[] | null;
  readonly sessionId?: Buffer;
  readonly suites?: Buffer;
  readonly compression?: Buffer;
  /** Behind the list of extensions. */
  readonly behind?: Buffer;
};

/** The handshake message, without a record around it. */
export function helloOf(parts: HelloParts): Buffer {
  const extensions =
    parts.extensions === null
      ? Buffer.alloc(0)
      : vector(
          2,
          Buffer.concat(parts.extensions.map(({ type, data }) => Buffer.concat([uint(2, type), vector(2, data)]))),
        );
  const body = Buffer.concat([
    Buffer.from('0303', 'hex'),
    Buffer.alloc(32, 7),
    vector(1, parts.sessionId ?? Buffer.alloc(32, 9)),
    vector(2, parts.suites ?? Buffer.from('13011302c02f', 'hex')),
    vector(1, parts.compression ?? Buffer.from([0])),
    extensions,
    parts.behind ?? Buffer.alloc(0),
  ]);
  return Buffer.concat([Buffer.from([1]), vector(3, body)]);
}

export function serverNameOf(...names: readonly string[]): Extension {
  const list = Buffer.concat(
    names.map((name) => Buffer.concat([Buffer.from([0]), vector(2, Buffer.from(name, 'latin1'))])),
  );
  return { type: 0, data: vector(2, list) };
}

/** A handshake message in records of these sizes. */
export function recordsOf(message: Buffer, sizes: readonly number[]): Buffer {
  let at = 0;
  return Buffer.concat(
    sizes.map((size) => {
      const part = message.subarray(at, at + size);
      at += size;
      return Buffer.concat([Buffer.from('160301', 'hex'), vector(2, part)]);
    }),
  );
}

function uint(size: number, value: number): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.writeUIntBE(value, 0, size);
  return bytes;
}

function vector(lengthSize: number, data: Buffer): Buffer {
  return Buffer.concat([uint(lengthSize, data.length), data]);
}

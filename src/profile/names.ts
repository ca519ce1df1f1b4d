/**
 * Host names, made canonical once and in one place: the rule of a profile, the question of an agent and the answer of
 * a resolver are compared only after they came through here, byte for byte.
 */
const NAME_CHARS_MAX = 253;
const LABEL_CHARS_MAX = 63;
const LABEL = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
// A last label that URL parsers and inet_aton read as a number makes the whole name an address in disguise.
const NUMERIC_LABEL = /^(?:[0-9]+|0x[0-9a-f]*)$/;

export type CanonicalName =
  | { readonly ok: true; readonly name: string }
  | { readonly ok: false; readonly rule: string };

/**
 * Lower case, without one trailing dot, letters, digits and hyphens only (RFC 1123), ASCII only: an international name
 * counts in its `xn--` spelling. Any string may come in; `rule` is fit to show, as it repeats nothing of it.
 */
export function canonicaliseName(raw: string): CanonicalName {
  // Before anything else, so that a megabyte of name costs nothing. One more character for the trailing dot.
  if (raw.length > NAME_CHARS_MAX + 1) return refused(`must be at most ${NAME_CHARS_MAX} characters long`);
  const name = (raw.endsWith('.') ? raw.slice(0, -1) : raw).replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  if (name === '') return refused('must not be empty');
  if (name.length > NAME_CHARS_MAX) return refused(`must be at most ${NAME_CHARS_MAX} characters long`);
  for (const label of name.split('.')) {
    const rule = labelRule(label);
    if (rule !== null) return refused(rule);
  }
  if (NUMERIC_LABEL.test(name.slice(name.lastIndexOf('.') + 1))) {
    return refused('must be a name, not an address or a part of one');
  }
  return { ok: true, name };
}

function labelRule(label: string): string | null {
  if (label === '') return 'must have no empty label (two dots in a row, or a dot at the start)';
  if (label.length > LABEL_CHARS_MAX) return `must have labels of at most ${LABEL_CHARS_MAX} characters`;
  if (LABEL.test(label)) return null;
  if (label.startsWith('-') || label.endsWith('-')) return 'must have no label that starts or ends with a hyphen';
  return 'must consist of letters, digits, hyphens and dots';
}

function refused(rule: string): CanonicalName {
  return { ok: false, rule };
}

/** Is `name` one or more labels below `parent`? Never `parent` itself, never `evil-parent`. Both canonical. */
export function isBelow(name: string, parent: string): boolean {
  return name.length > parent.length + 1 && name.endsWith(`.${parent}`);
}

// Below these, strangers can register a name or rent one by the minute, so a wildcard would name nobody in particular.
const REGISTRY_LABELS = new Set(
  'ac,co,com,edu,firm,gen,go,gob,gouv,gov,govt,gv,id,idv,ind,info,lg,ltd,me,mil,ne,net,nhs,nom,or,org,plc,police,re,sch,school,web'.split(
    ',',
  ),
);
const SHARED_SUFFIXES = new Set([
  'amplifyapp.com',
  'appspot.com',
  'azureedge.net',
  'azurefd.net',
  'azurewebsites.net',
  'b-cdn.net',
  'blob.core.windows.net',
  'blogspot.com',
  'cloudapp.azure.com',
  'cloudapp.net',
  'cloudfront.net',
  'cloudfunctions.net',
  'ddns.net',
  'deno.dev',
  'digitaloceanspaces.com',
  'duckdns.org',
  'dyndns.org',
  'eu.org',
  'firebaseapp.com',
  'firebaseio.com',
  'fly.dev',
  'github.io',
  'gitlab.io',
  'herokuapp.com',
  'hf.space',
  'loca.lt',
  'lhr.life',
  'localhost.run',
  'netlify.app',
  'ngrok-free.app',
  'ngrok.app',
  'ngrok.io',
  'no-ip.org',
  'nip.io',
  'onrender.com',
  'pages.dev',
  'r2.dev',
  'r2.cloudflarestorage.com',
  'railway.app',
  'readthedocs.io',
  'repl.co',
  'replit.app',
  'replit.dev',
  'run.app',
  's3.amazonaws.com',
  'serveo.net',
  'sslip.io',
  'storage.googleapis.com',
  'streamlit.app',
  'supabase.co',
  'surge.sh',
  'trycloudflare.com',
  'vercel.app',
  'web.app',
  'web.core.windows.net',
  'wixsite.com',
  'wordpress.com',
  'workers.dev',
  'xip.io',
]);

/**
 * Why no wildcard may stand before this canonical name, or null. A whole public suffix list is megabytes that age;
 * this catches registries by their form (`co.uk`, `com.br`) and the well-known places where names are rented out.
 */
export function wildcardRefusal(name: string): string | null {
  const labels = name.split('.');
  if (labels.length === 1) return `must name a domain: below "${name}" anyone can register`;
  const [second, top] = labels;
  if (labels.length === 2 && top?.length === 2 && REGISTRY_LABELS.has(second ?? '')) {
    return `must name a domain: "${name}" is a public suffix, below it anyone can register`;
  }
  if (SHARED_SUFFIXES.has(name)) return `must name a domain: below "${name}" anyone can rent a name`;
  return null;
}

/** A suffix below this canonical name where anyone can rent a name, or null: `s3.amazonaws.com` for `amazonaws.com`. */
export function sharedSuffixBelow(name: string): string | null {
  for (const suffix of SHARED_SUFFIXES) if (isBelow(suffix, name)) return suffix;
  return null;
}

const LOCAL_SUFFIXES = ['localhost', 'local', 'onion', 'arpa', 'invalid'];
const LOCAL_NAMES = new Set([
  'host.docker.internal',
  'gateway.docker.internal',
  'host.containers.internal',
  'metadata.google.internal',
]);

/** Why a rule may not give this canonical name at all, or null: names of the host itself, of metadata, of no DNS. */
export function nameRefusal(name: string): string | null {
  const last = name.slice(name.lastIndexOf('.') + 1);
  if (LOCAL_SUFFIXES.includes(last)) return `must be a name of the public DNS: "${last}" is not a part of it`;
  if (LOCAL_NAMES.has(name)) return 'must not be a name of the host or of its metadata service';
  if (!name.includes('.')) return 'must be a full name with at least one dot';
  return null;
}

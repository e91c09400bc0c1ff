// What the filter line says: `ns:shop verdict:dropped -port:53 cart`. Of the same key one value suffices, different keys must all
// hold, `-` leaves out; words without a key are looked for anywhere.
import { layer7, type Row } from './model';

export const KEYS = ['ns', 'pod', 'workload', 'verdict', 'proto', 'port', 'policy', 'node'] as const;
export type Key = (typeof KEYS)[number];

export interface Term {
  key: Key | 'text';
  value: string;
  not: boolean;
}

export function parse(text: string): Term[] {
  return text.split(/\s+/).filter(Boolean).map((part) => {
    const not = part.length > 1 && part.startsWith('-');
    const bare = not ? part.slice(1) : part;
    const colon = bare.indexOf(':');
    const key = KEYS.find((one) => one === bare.slice(0, colon).toLowerCase());
    return key ? { key, value: bare.slice(colon + 1), not } : { key: 'text' as const, value: bare.toLowerCase(), not };
  }).filter((term) => term.value !== '');
}

export const show = (terms: Term[]) =>
  terms.map((term) => `${term.not ? '-' : ''}${term.key === 'text' ? '' : `${term.key}:`}${term.value}`).join(' ');

/** The line with this term, or without it where it stood. */
export function toggle(text: string, key: Key, value: string): string {
  const terms = parse(text);
  const rest = terms.filter((term) => !(term.key === key && term.value === value && !term.not));
  return show(rest.length < terms.length ? rest : [...terms, { key, value, not: false }]);
}

/** The line with just these values of a key. */
export function only(text: string, key: Key, values: string[]): string {
  const rest = parse(text).filter((term) => term.key !== key);
  return show([...rest, ...values.map((value) => ({ key, value, not: false }))]);
}

export const values = (terms: Term[], key: Key) => terms.filter((term) => term.key === key && !term.not).map((term) => term.value);

/** `namespace/beginning`, or the beginning alone. */
function isPod(side: Row['from'], value: string): boolean {
  const [first, second] = value.split('/', 2);
  return second === undefined ? side.who.startsWith(value) && side.ns !== '' : side.ns === first && side.who.startsWith(second);
}

function holds(row: Row, { key, value }: Term): boolean {
  switch (key) {
    case 'ns': return row.from.ns === value || row.to.ns === value;
    case 'pod': return isPod(row.from, value) || isPod(row.to, value);
    case 'workload': return [row.from, row.to].some((end) => end.name === value || `${end.ns}/${end.name}` === value || end.id === value);
    case 'verdict': return row.verdict === value.toUpperCase();
    case 'proto': return row.proto.toLowerCase().startsWith(value.toLowerCase()) || layer7(row.flow).toLowerCase() === value.toLowerCase();
    case 'port': return String(row.from.port) === value || String(row.to.port) === value;
    case 'policy': return row.decisions.some((one) => one.name === value || `${one.ns}/${one.name}` === value);
    case 'node': return row.node === value || row.node.endsWith(`/${value}`);
    case 'text': return row.text.includes(value);
  }
}

/** Whether a row is wanted. */
export function matcher(terms: Term[]): (row: Row) => boolean {
  const groups = new Map<string, Term[]>();
  const unwanted = terms.filter((term) => term.not);
  for (const term of terms.filter((one) => !one.not)) {
    // Every word has to be there; of everything else one suffices.
    const group = term.key === 'text' ? `text ${term.value}` : term.key;
    groups.set(group, [...(groups.get(group) ?? []), term]);
  }
  const wanted = [...groups.values()];
  return (row) => wanted.every((group) => group.some((term) => holds(row, term))) && !unwanted.some((term) => holds(row, term));
}

type FlowFilter = Record<string, unknown>;

/** One end or the other, as filters of the API. */
const either = (field: string, list: unknown[]): FlowFilter[] => [{ [`source_${field}`]: list }, { [`destination_${field}`]: list }];

function asFilters(key: Term['key'], list: string[]): FlowFilter[] | undefined {
  switch (key) {
    case 'ns': return either('pod', list.map((one) => `${one}/`));
    case 'pod': return either('pod', list.map((one) => (one.includes('/') ? one : `/${one}`)));
    case 'port': return list.every((one) => /^\d{1,5}$/.test(one) && Number(one) < 65536) ? either('port', list) : undefined;
    case 'verdict': {
      const all = list.map((one) => one.toUpperCase());
      return all.every((one) => /^(FORWARDED|DROPPED|ERROR|AUDIT|REDIRECTED|TRACED|TRANSLATED)$/.test(one)) ? [{ verdict: all }] : undefined;
    }
    case 'proto': {
      const all = list.map((one) => one.toLowerCase());
      return all.every((one) => /^(tcp|udp|sctp|icmp|icmpv4|icmpv6|http|dns|kafka)$/.test(one)) ? [{ protocol: all }] : undefined;
    }
    default: return undefined;
  }
}

/** As much of the filter as the relay can do, as parameters of /api/flows; the page does all of it once more. */
export function parameters(terms: Term[]): string {
  let wanted: FlowFilter[] = [{}];
  // A namespace and a pod are one field of the API: the pod says more.
  const keys = new Set(terms.filter((term) => !term.not).map((term) => term.key));
  if (keys.has('pod')) keys.delete('ns');
  for (const key of keys) {
    const list = key === 'text' ? [] : values(terms, key);
    const more = asFilters(key, list);
    if (more) wanted = wanted.flatMap((one) => more.map((other) => ({ ...one, ...other })));
  }
  const unwanted = terms.filter((term) => term.not).flatMap((term) => asFilters(term.key, [term.value]) ?? []);
  const query = new URLSearchParams();
  if (wanted.some((one) => Object.keys(one).length)) wanted.forEach((one) => query.append('whitelist', JSON.stringify(one)));
  unwanted.forEach((one) => query.append('blacklist', JSON.stringify(one)));
  return query.toString();
}

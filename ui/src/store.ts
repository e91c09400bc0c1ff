// Everything that the page knows: the last flows, what was counted of them, and what is shown of it.
import { matcher, parameters, parse, type Term } from './filter';
import { row, type Decision, type Line, type Row, type Side, type Verdict } from './model';
import { follow, watchStatus, type Status } from './stream';

/** How many flows are kept, and how many nodes and arrows are counted. */
const ROWS = 10_000;
const NODES = 4000;
const EDGES = 20_000;

/** Something at the end of an arrow. */
export interface Node {
  id: string;
  ns: string;
  name: string;
  kind: string;
  /** What it answers at, with counts. */
  ports: Map<string, number>;
  flows: number;
  dropped: number;
}

export interface Edge {
  key: string;
  from: string;
  to: string;
  flows: number;
  dropped: number;
  audited: number;
  ports: Map<string, { passed: number; dropped: number }>;
  policies: Set<string>;
  last: number;
}

export interface PolicyCount extends Decision {
  allowed_count: number;
  denied_count: number;
  directions: Set<string>;
  ends: Map<string, number>;
  ports: Map<string, number>;
  last: number;
}

let graphs = 0;

/** What flows add up to. */
export class Graph {
  readonly serial = ++graphs;
  nodes = new Map<string, Node>();
  edges = new Map<string, Edge>();
  policies = new Map<string, PolicyCount>();
  namespaces = new Map<string, number>();
  /** Decisions that no policy made: nothing allowed what was asked for. */
  undecided = 0;
  /** Changes whenever a node or an arrow is new, or an arrow is refused for the first time. */
  shape = 0;

  private node(side: Side): Node | undefined {
    let node = this.nodes.get(side.id);
    if (!node && this.nodes.size < NODES) {
      node = { id: side.id, ns: side.ns, name: side.name, kind: side.kind, ports: new Map(), flows: 0, dropped: 0 };
      this.nodes.set(side.id, node);
      this.shape++;
    }
    if (node && side.kind) node.kind = side.kind;
    return node;
  }

  private edge(row: Row): Edge | undefined {
    const key = `${row.from.id}\n${row.to.id}`;
    let edge = this.edges.get(key);
    if (!edge && this.edges.size < EDGES) {
      edge = { key, from: row.from.id, to: row.to.id, flows: 0, dropped: 0, audited: 0, ports: new Map(), policies: new Set(), last: 0 };
      this.edges.set(key, edge);
      this.shape++;
    }
    return edge;
  }

  add(row: Row) {
    for (const ns of new Set([row.from.ns, row.to.ns])) if (ns) bump(this.namespaces, ns);
    this.decide(row);
    // What sockets translate goes to services, which are not at the end of anything.
    if (row.socket) return;
    const [from, to, edge] = [this.node(row.from), this.node(row.to), this.edge(row)];
    if (!from || !to || !edge) return;
    row.decisions.forEach((one) => edge.policies.add(`${one.allowed ? '+' : '-'}${one.key}`));
    edge.last = Math.max(edge.last, row.at);
    if (row.decided && row.verdict !== 'AUDIT') return;
    const port = row.port ? `${row.port}/${row.proto}` : row.proto;
    const bad = row.verdict === 'DROPPED' || row.verdict === 'ERROR';
    if (bad && !edge.dropped) this.shape++;
    edge.flows++;
    edge.audited += row.verdict === 'AUDIT' ? 1 : 0;
    const ends = from === to ? [from] : [from, to];
    ends.forEach((end) => end.flows++);
    const counts = edge.ports.get(port) ?? { passed: 0, dropped: 0 };
    if (edge.ports.size < 40) edge.ports.set(port, counts);
    if (bad) {
      edge.dropped++;
      counts.dropped++;
      to.dropped++;
      if (from !== to) from.dropped++;
    } else {
      counts.passed++;
      if (port && to.ports.size < 20) bump(to.ports, port);
    }
  }

  private decide(row: Row) {
    if (row.decided && row.verdict === 'DROPPED' && !row.decisions.length) this.undecided++;
    for (const one of row.decisions) {
      const key = one.key;
      let policy = this.policies.get(key);
      if (!policy) {
        policy = { ...one, allowed_count: 0, denied_count: 0, directions: new Set(), ends: new Map(), ports: new Map(), last: 0 };
        this.policies.set(key, policy);
      }
      if (one.allowed) policy.allowed_count++;
      else policy.denied_count++;
      policy.directions.add(one.direction);
      policy.last = Math.max(policy.last, row.at);
      const subject = one.direction === 'egress' ? row.from : row.to;
      if (policy.ends.size < 200) bump(policy.ends, subject.ns ? `${subject.ns}/${subject.name}` : subject.name);
      if (policy.ports.size < 40) bump(policy.ports, row.port ? `${row.port}/${row.proto}` : row.proto);
    }
  }
}

function bump(map: Map<string, number>, key: string) {
  map.set(key, (map.get(key) ?? 0) + 1);
}

export const VIEWS = ['map', 'flows', 'policies'] as const;
export type View = (typeof VIEWS)[number];
export type Selection = { type: 'flow'; row: Row } | { type: 'node'; id: string } | { type: 'edge'; key: string } | { type: 'policy'; policy: Decision } | undefined;
export type Theme = 'auto' | 'light' | 'dark';

/** What people have chosen. */
export interface Chosen {
  view: View;
  query: string;
  paused: boolean;
  theme: Theme;
  selected: Selection;
  help: boolean;
  /** Namespaces whose workloads are shown or not, where somebody said so. */
  open: ReadonlyMap<string, boolean>;
}

class Store {
  /** The newest is last. */
  private all: Row[] = [];
  /** Rows that pass the filter, newest last; a new array whenever that changes. */
  rows: Row[] = [];
  graph = new Graph();
  terms: Term[] = [];
  chosen: Chosen = { view: 'map', query: '', paused: false, theme: 'auto', selected: undefined, help: false, open: new Map() };
  live = false;
  trouble = '';
  lost = 0;
  status: Status | undefined;
  nodesAway: string[] = [];
  /** Flows that came while nothing moved. */
  waiting = 0;
  private freshAt = 0;

  private held: Row[] = [];
  private matches = matcher([]);
  private asked: string | undefined;
  private end = () => {};
  private timer = 0;
  private due = 0;
  private tellers = new Set<() => void>();

  start() {
    this.readPlace();
    addEventListener('hashchange', () => this.readPlace());
    void watchStatus((status) => {
      this.status = status;
      this.tell();
    });
  }

  /** Whether what nodes have kept should have come by now. */
  get settled(): boolean {
    return Date.now() - this.freshAt > 1500;
  }

  listen(teller: () => void): () => void {
    this.tellers.add(teller);
    return () => this.tellers.delete(teller);
  }

  private tell() {
    if (this.due) return;
    this.due = window.setTimeout(() => {
      this.due = 0;
      this.tellers.forEach((teller) => teller());
    }, 100);
  }

  choose(change: Partial<Chosen>) {
    const before = this.chosen;
    this.chosen = { ...before, ...change };
    if (change.query !== undefined && change.query !== before.query) this.refilter();
    if (change.paused === false && before.paused) {
      const held = this.held;
      this.held = [];
      this.waiting = 0;
      this.take(held);
    }
    if (change.view || change.query !== undefined) this.writePlace();
    this.tellers.forEach((teller) => teller());
  }

  /** Where the page stands is in its address, so that it can be passed on. */
  private readPlace() {
    const [view, query] = location.hash.slice(1).split('?', 2);
    const chosen = VIEWS.find((one) => one === view) ?? 'map';
    const text = new URLSearchParams(query ?? '').get('q') ?? '';
    const first = this.asked === undefined;
    if (first || chosen !== this.chosen.view || text !== this.chosen.query) this.choose({ view: chosen, query: text });
    if (first) this.refilter();
  }

  private writePlace() {
    const { view, query } = this.chosen;
    const hash = `#${view}${query ? `?${new URLSearchParams({ q: query })}` : ''}`;
    if (location.hash !== hash) history.replaceState(null, '', hash);
  }

  private refilter() {
    this.terms = parse(this.chosen.query);
    this.matches = matcher(this.terms);
    this.rows = this.all.filter(this.matches);
    this.recount();
    const wanted = parameters(this.terms);
    if (wanted === this.asked) return;
    const first = this.asked === undefined;
    this.asked = wanted;
    clearTimeout(this.timer);
    // Whoever types is not done yet.
    this.timer = window.setTimeout(() => this.ask(wanted), first ? 0 : 350);
  }

  private recount() {
    const graph = new Graph();
    this.rows.forEach((one) => graph.add(one));
    this.graph = graph;
  }

  private ask(wanted: string) {
    this.end();
    this.end = follow(wanted, {
      lines: (lines, fresh) => this.lines(lines, fresh),
      state: (live, trouble) => {
        [this.live, this.trouble] = [live, trouble];
        this.tell();
      },
    });
  }

  private lines(lines: Line[], fresh: boolean) {
    if (fresh) {
      this.freshAt = Date.now();
      this.held = [];
      this.waiting = 0;
      this.all = [];
      this.rows = [];
      this.graph = new Graph();
    }
    const rows: Row[] = [];
    for (const line of lines) {
      if (line.flow) rows.push(row(line.flow));
      else if (line.lost_events) this.lost += Number(line.lost_events.num_events_lost ?? 0);
      else if (line.node_status) this.news(line.node_status);
    }
    if (this.chosen.paused && this.settled) {
      this.held.push(...rows);
      if (this.held.length > ROWS) this.held.splice(0, this.held.length - ROWS);
      this.waiting += rows.length;
    } else {
      this.take(rows);
    }
    this.tell();
  }

  private take(rows: Row[]) {
    this.all = kept(this.all, rows);
    const wanted = rows.filter(this.matches);
    if (wanted.length) this.rows = kept(this.rows, wanted);
    wanted.forEach((one) => this.graph.add(one));
  }

  private news(status: NonNullable<Line['node_status']>) {
    const names = status.node_names ?? [];
    const away = new Set(this.nodesAway);
    const bad = status.state_change === 'NODE_UNAVAILABLE' || status.state_change === 'NODE_ERROR';
    names.forEach((name) => (bad ? away.add(name) : away.delete(name)));
    this.nodesAway = [...away];
  }
}

function kept(rows: Row[], more: Row[]): Row[] {
  const all = rows.concat(more);
  return all.length > ROWS ? all.slice(all.length - ROWS) : all;
}

export const store = new Store();
export const isBad = (verdict: Verdict) => verdict === 'DROPPED' || verdict === 'ERROR';

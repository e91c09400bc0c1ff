// Where things stand on the map. Callers left, called right, namespaces as boxes; the same input gives the same picture.
import type { Edge, Node } from './store';

export const CARD = { w: 176, h: 46 };
const GAP = { x: 56, y: 12 };
const PAD = { x: 18, top: 44, bottom: 18 };
const SPACE = { x: 96, y: 40 };
export const TILE = { w: 232, h: 96 };
const ROUND = { w: 128, h: 64 };

export interface Place {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Box extends Place {
  /** The namespace, or the identity of what is in none. */
  id: string;
  name: string;
  open: boolean;
  special: boolean;
  nodes: Node[];
}

export interface Picture {
  boxes: Box[];
  /** Of nodes that are shown one by one. */
  cards: Map<string, Place>;
  w: number;
  h: number;
}

const boxOf = (node: Node) => (node.ns ? node.ns : node.id);

/** Left of all namespaces stand those that only call from outside, right those that are called. */
const LEFT = new Set(['reserved:world', 'reserved:ingress']);

/** The order in which callers come before those that they call, as far as there is one. */
function order(ids: string[], pairs: Iterable<[string, string]>): Map<string, number> {
  const out = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]));
  const into = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]));
  for (const [from, to] of pairs) {
    if (from === to || !out.has(from) || !out.has(to)) continue;
    out.get(from)!.add(to);
    into.get(to)!.add(from);
  }
  // Greedily: sources first, sinks last, between them whoever calls more than it is called.
  const [head, tail]: [string[], string[]] = [[], []];
  const left = new Set([...ids].sort());
  const degree = (map: Map<string, Set<string>>, id: string) => {
    let count = 0;
    map.get(id)!.forEach((other) => { if (left.has(other)) count++; });
    return count;
  };
  while (left.size) {
    let [best, score]: [string, number] = ['', -Infinity];
    let sink = '';
    for (const id of left) {
      const [outs, ins] = [degree(out, id), degree(into, id)];
      if (outs === 0 && ins > 0) sink = id;
      const weight = ins === 0 ? 1e6 + outs : outs - ins;
      if (weight > score) [best, score] = [id, weight];
    }
    if (sink && score < 1e6) {
      tail.unshift(sink);
      left.delete(sink);
    } else {
      head.push(best);
      left.delete(best);
    }
  }
  const line = [...head, ...tail];
  const place = new Map(line.map((id, index) => [id, index]));
  // The longest way from a source, along the calls that go forward.
  const rank = new Map<string, number>();
  for (const id of line) {
    let depth = 0;
    into.get(id)!.forEach((from) => { if (place.get(from)! < place.get(id)!) depth = Math.max(depth, (rank.get(from) ?? 0) + 1); });
    rank.set(id, depth);
  }
  return rank;
}

/** Columns of cards within a namespace, and how large that makes it. */
function inside(nodes: Node[], edges: Edge[]): { columns: Node[][]; w: number; h: number } {
  const pairs = edges.map((edge): [string, string] => [edge.from, edge.to]);
  const rank = order(nodes.map((node) => node.id), pairs);
  const linked = new Set(pairs.flatMap(([from, to]) => (from === to ? [] : [from, to])));
  const sorted = [...nodes].sort((a, b) => Number(!linked.has(a.id)) - Number(!linked.has(b.id)) || rank.get(a.id)! - rank.get(b.id)! || a.name.localeCompare(b.name));
  const tallest = Math.max(4, Math.ceil(Math.sqrt(nodes.length * 2.4)));
  const columns: Node[][] = [];
  let last = -1;
  for (const node of sorted) {
    const at = linked.has(node.id) ? rank.get(node.id)! : 1e6;
    const column = columns.at(-1);
    // Large namespaces fill their columns, small ones have one for each step.
    const new_step = at !== last && (nodes.length <= 12 || (column?.length ?? 0) > tallest / 2);
    if (!column || new_step || column.length >= tallest) columns.push([node]);
    else column.push(node);
    last = at;
  }
  const rows = Math.max(...columns.map((column) => column.length));
  return {
    columns,
    w: PAD.x * 2 + columns.length * (CARD.w + GAP.x) - GAP.x,
    h: PAD.top + PAD.bottom + rows * (CARD.h + GAP.y) - GAP.y,
  };
}

/** Draws nodes and arrows. `isOpen` says of a namespace whether its workloads are shown; `aspect` is that of the room, width to height. */
export function draw(nodes: Node[], edges: Edge[], isOpen: (ns: string) => boolean, aspect: number): Picture {
  const home = new Map(nodes.map((node) => [node.id, boxOf(node)]));
  const boxes = new Map<string, Box>();
  for (const node of nodes) {
    const id = boxOf(node);
    let box = boxes.get(id);
    if (!box) {
      box = { id, name: node.ns || node.name, open: node.ns !== '' && isOpen(node.ns), special: node.ns === '', nodes: [], x: 0, y: 0, ...ROUND };
      boxes.set(id, box);
    }
    box.nodes.push(node);
  }
  const own = new Map<string, Edge[]>();
  for (const edge of edges) {
    const at = home.get(edge.from);
    if (at !== undefined && at === home.get(edge.to)) own.set(at, [...(own.get(at) ?? []), edge]);
  }
  const insides = new Map<string, ReturnType<typeof inside>>();
  for (const box of boxes.values()) {
    if (box.special) continue;
    if (!box.open) Object.assign(box, TILE);
    else {
      const all = inside(box.nodes, own.get(box.id) ?? []);
      insides.set(box.id, all);
      Object.assign(box, { w: all.w, h: all.h });
    }
  }
  const picture = arrange([...boxes.values()], edges, home, aspect);
  const cards = new Map<string, Place>();
  for (const box of boxes.values()) {
    if (box.special) cards.set(box.nodes[0]!.id, box);
    insides.get(box.id)?.columns.forEach((column, x) => {
      column.forEach((node, y) => {
        cards.set(node.id, { x: box.x + PAD.x + x * (CARD.w + GAP.x), y: box.y + PAD.top + y * (CARD.h + GAP.y), ...CARD });
      });
    });
  }
  return { ...picture, cards };
}

/** Puts boxes into columns. */
function arrange(boxes: Box[], edges: Edge[], home: Map<string, string>, aspect: number): Omit<Picture, 'cards'> {
  const pairs = new Map<string, [string, string]>();
  for (const edge of edges) {
    const [from, to] = [home.get(edge.from), home.get(edge.to)];
    if (from && to && from !== to) pairs.set(`${from}\n${to}`, [from, to]);
  }
  const middle = boxes.filter((box) => !box.special);
  const rank = order(middle.map((box) => box.id), pairs.values());
  middle.sort((a, b) => rank.get(a.id)! - rank.get(b.id)! || a.name.localeCompare(b.name));
  const special = boxes.filter((box) => box.special).sort((a, b) => a.id.localeCompare(b.id));
  const left = special.filter((box) => LEFT.has(box.id));
  const right = special.filter((box) => !LEFT.has(box.id));
  const area = middle.reduce((sum, box) => sum + (box.w + SPACE.x) * (box.h + SPACE.y), 0);
  const highest = Math.max(0, ...middle.map((box) => box.h));
  // Of several heights the one that the room shows largest.
  let [best, least]: [Box[][], number] = [[], Infinity];
  for (const factor of [0.6, 0.75, 0.9, 1, 1.1, 1.25, 1.4, 1.6]) {
    for (const steps of [true, false]) {
      const tallest = Math.max(highest, Math.sqrt(area / aspect) * factor);
      const columns = [left, ...fill(middle, rank, tallest, steps && middle.length <= 8), right].filter((column) => column.length);
      const { w, h } = stack(columns);
      // A column for each step is worth being smaller.
      const size = Math.max(w / aspect, h) * (steps ? 1 : 1.25);
      if (size < least) [best, least] = [columns, size];
    }
  }
  return { boxes, ...stack(best) };
}

/** Boxes in their order, in columns of at most this height; with `steps` one at least for each rank. */
function fill(boxes: Box[], rank: Map<string, number>, tallest: number, steps: boolean): Box[][] {
  const columns: Box[][] = [];
  let [height, last] = [0, -1];
  for (const box of boxes) {
    const at = rank.get(box.id)!;
    const step = steps && at !== last;
    if (!columns.length || step || height + box.h > tallest) {
      columns.push([]);
      height = 0;
    }
    columns.at(-1)!.push(box);
    height += box.h + SPACE.y;
    last = at;
  }
  return columns;
}

/** Columns side by side, each in the middle of the height. */
function stack(columns: Box[][]): { w: number; h: number } {
  const heights = columns.map((column) => column.reduce((sum, box) => sum + box.h + SPACE.y, -SPACE.y));
  const h = Math.max(0, ...heights);
  let x = 0;
  columns.forEach((column, index) => {
    const w = Math.max(...column.map((box) => box.w));
    let y = (h - heights[index]!) / 2;
    for (const box of column) {
      box.x = x + (w - box.w) / 2;
      box.y = y;
      y += box.h + SPACE.y;
    }
    x += w + SPACE.x;
  });
  return { w: Math.max(0, x - SPACE.x), h };
}

/** An arrow's way from one place to another. */
export function way(from: Place, to: Place): { d: string; x: number; y: number } {
  const [fy, ty] = [from.y + from.h / 2, to.y + to.h / 2];
  const forward = to.x >= from.x + from.w;
  const back = from.x >= to.x + to.w;
  if (!forward && !back) {
    // One above the other: around the right side.
    const [fx, tx] = [from.x + from.w, to.x + to.w + 3];
    const out = Math.max(fx, tx) + 34 + Math.min(60, Math.abs(ty - fy) / 8);
    return { d: `M${fx} ${fy}C${out} ${fy} ${out} ${ty} ${tx} ${ty}`, x: out - (out - Math.max(fx, tx)) * 0.25, y: (fy + ty) / 2 };
  }
  const [fx, tx] = forward ? [from.x + from.w, to.x - 3] : [from.x, to.x + to.w + 3];
  const bend = Math.max(28, Math.abs(tx - fx) * 0.42) * (forward ? 1 : -1);
  return { d: `M${fx} ${fy}C${fx + bend} ${fy} ${tx - bend} ${ty} ${tx} ${ty}`, x: (fx + tx) / 2, y: (fy + ty) / 2 };
}

// The map of services: namespaces as boxes, workloads as cards, arrows for who talks to whom.
import { memo } from 'preact/compat';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { hue, useCalm, useSize, useStore } from './hooks';
import { draw, way, type Box, type Picture, type Place } from './layout';
import { short } from './model';
import { store, type Edge, type Graph, type Node, type Selection } from './store';

/** Above so many workloads namespaces are closed at first. */
const MANY = 70;
/** Above so many arrows those between namespaces are drawn as one. */
const BUNDLE = 200;
/** Up to so many arrows each shows that it is in use. */
const MOVING = 120;

/** An arrow as it is drawn, of one or more edges. */
interface Arrow {
  key: string;
  from: Place;
  to: Place;
  ends: [string, string];
  edges: Edge[];
  /** From box to box: it lies below them. */
  below: boolean;
}

export function isOpen(graph: Graph, ns: string): boolean {
  return store.chosen.open.get(ns) ?? graph.nodes.size <= MANY;
}

function arrows(graph: Graph, picture: Picture, focus: string): Arrow[] {
  const boxes = new Map(picture.boxes.map((box) => [box.id, box]));
  const edges = [...graph.edges.values()];
  const home = (id: string) => boxes.get(graph.nodes.get(id)?.ns || id);
  const bundled = edges.length > BUNDLE;
  const found = new Map<string, Arrow>();
  for (const edge of edges) {
    const [a, b] = [home(edge.from), home(edge.to)];
    if (!a || !b || edge.from === edge.to) continue;
    const near = edge.from === focus || edge.to === focus || a === b || !bundled;
    const end = (id: string, box: Box) => (near ? picture.cards.get(id) : undefined) ?? box;
    const [from, to] = [end(edge.from, a), end(edge.to, b)];
    if (from === to) continue;
    const ends: Arrow['ends'] = [from === a ? a.id : edge.from, to === b ? b.id : edge.to];
    const key = ends.join('\n');
    const arrow = found.get(key);
    if (arrow) arrow.edges.push(edge);
    else found.set(key, { key, from, to, ends, edges: [edge], below: from === a && to === b });
  }
  return [...found.values()];
}

/** Boxes that most others talk to, as that of the name servers: arrows to them would cover all others. */
function hubs(all: Arrow[], boxes: number): Set<string> {
  const counts = new Map<string, number>();
  for (const arrow of all) for (const end of arrow.below ? arrow.ends : []) counts.set(end, (counts.get(end) ?? 0) + 1);
  return new Set([...counts].filter(([, count]) => boxes > 10 && count > boxes * 0.6).map(([id]) => id));
}

const cut = (text: string, length: number) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function topPorts(ports: Iterable<[string, number]>, count: number): string {
  const all = [...ports].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  return all.slice(0, count).join('  ') + (all.length > count ? `  +${all.length - count}` : '');
}

interface CardProps {
  /** Size of the name, in units of the picture. */
  size: number;
  id: string;
  name: string;
  kind: string;
  ports: string;
  dropped: number;
  place: Place;
  state: string;
  tint: number;
}

const Card = memo(({ size, id, name, kind, ports, dropped, place, state, tint }: CardProps) => (
  <g
    class={`card ${state}`} data-node={id} role="button" tabindex={-1} style={{ transform: `translate(${place.x}px,${place.y}px)`, '--hue': tint }}
    aria-label={`${kind} ${name}${dropped ? `, ${dropped} dropped` : ''}`}
  >
    <title>{`${kind} ${name}\n${ports}`}</title>
    <rect class="face" width={place.w} height={place.h} rx="9" />
    <rect class="strip" x="0" y="9" width="3.5" height={place.h - 18} rx="1.75" />
    <text class="name" x="15" y={size > 13 ? 23 + size * 0.35 : 20} style={{ fontSize: `${size}px` }}>{cut(name, Math.floor((dropped ? 118 : 152) / (size * 0.56)))}</text>
    <text class="ports" x="15" y="36">{cut(ports || kind, 26)}</text>
    {dropped > 0 && <Badge x={place.w - 12} y={place.h / 2} count={dropped} />}
  </g>
));

const Badge = ({ x, y, count }: { x: number; y: number; count: number }) => {
  const text = short(count);
  const w = text.length * 7 + 10;
  return (
    <g class="badge">
      <rect x={x - w} y={y - 9} width={w} height="18" rx="9" />
      <text x={x - w / 2} y={y + 4}>{text}</text>
    </g>
  );
};

const ICONS: Record<string, string> = {
  'reserved:world': 'M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18M3 12h18M12 3c3.4 3.3 3.4 14.700 0 18M12 3c-3.400 3.300-3.400 14.700 0 18',
  'reserved:host': 'M4 5h16v6H4zM4 13h16v6H4zM7 8h.01M7 16h.01',
  'reserved:remote-node': 'M4 5h16v6H4zM4 13h16v6H4zM7 8h.01M7 16h.01',
  'reserved:kube-apiserver': 'M12 3l7.800 4.500v9L12 21l-7.800-4.500v-9zM12 12l7.800-4.500M12 12v9M12 12L4.200 7.500',
};

const total = (box: Box) => box.nodes.reduce<[number, number]>(([flows, dropped], node) => [flows + node.flows, dropped + node.dropped], [0, 0]);

function Round({ box, state }: { box: Box; state: string }) {
  const [flows, dropped] = total(box);
  return (
    <g class={`round ${state}`} data-node={box.id} role="button" tabindex={-1} style={{ transform: `translate(${box.x}px,${box.y}px)` }} aria-label={box.name}>
      <rect class="face" width={box.w} height={box.h} rx={box.h / 2} />
      <path class="icon" d={ICONS[box.id] ?? 'M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16'} transform="translate(16 20)" />
      <text class="name" x="50" y="29">{cut(box.name, 11)}</text>
      <text class="ports" x="50" y="45">{`${short(flows)} flows`}</text>
      {dropped > 0 && <Badge x={box.w - 6} y={2} count={dropped} />}
    </g>
  );
}

function Namespace({ box, state, scale }: { box: Box; state: string; scale: number }) {
  const title = Math.min(34, Math.max(14, 13 / scale));
  const [flows, dropped] = total(box);
  const share = flows ? dropped / flows : 0;
  const bar = box.w - 36;
  return (
    <g class={`ns ${box.open ? 'open' : 'closed'} ${state}`} style={{ transform: `translate(${box.x}px,${box.y}px)`, '--hue': hue(box.name) }}>
      <rect class="face" width={box.w} height={box.h} rx="14" data-ns={box.open ? undefined : box.id} />
      <g class="head" data-ns={box.id} role="button" tabindex={-1} aria-expanded={box.open} aria-label={`namespace ${box.name}, ${box.nodes.length} workloads`}>
        <rect class="hit" width={box.w} height={box.open ? 36 : box.h} rx="14" />
        {box.open ? (
          <>
            <text class="title" x="18" y={27} style={{ fontSize: `${title}px` }}>{cut(box.name, Math.max(6, Math.floor((box.w - 30) / (title * 0.58))))}</text>
            {scale > 0.55 && <text class="count" x={box.w - 18} y="27">{box.nodes.length}</text>}
          </>
        ) : (
          <>
            <text class="title" x="18" y="31" style={{ fontSize: `${Math.min(20, title)}px` }}>{cut(box.name, title > 16 ? 17 : 24)}</text>
            <text class="count left" x="18" y="54">{`${box.nodes.length} ${box.nodes.length === 1 ? 'workload' : 'workloads'} · ${short(flows)} flows`}</text>
            <rect class="gauge" x="18" y="70" width={bar} height="6" rx="3" />
            {share > 0 && <rect class="gauge bad" x={18 + bar * (1 - Math.max(share, 0.03))} y="70" width={bar * Math.max(share, 0.03)} height="6" rx="3" />}
            {dropped > 0 && <Badge x={box.w - 14} y={26} count={dropped} />}
          </>
        )}
      </g>
    </g>
  );
}

function ArrowLine({ arrow, state, moving }: { arrow: Arrow; state: string; moving: boolean }) {
  const { d, x, y } = way(arrow.from, arrow.to);
  let [flows, dropped, audited] = [0, 0, 0];
  const ports = new Map<string, number>();
  for (const edge of arrow.edges) {
    flows += edge.flows;
    dropped += edge.dropped;
    audited += edge.audited;
    for (const [port, counts] of edge.ports) ports.set(port, (ports.get(port) ?? 0) + counts.passed + counts.dropped);
  }
  const tone = dropped && dropped === flows ? 'bad' : dropped ? 'mixed' : audited ? 'warn' : 'ok';
  const hot = moving && Date.now() - Math.max(...arrow.edges.map((edge) => edge.last)) < 3000;
  const text = topPorts(ports, 2);
  return (
    <g class={`arrow ${tone} ${state} ${hot ? 'hot' : ''}`} data-arrow={arrow.key}>
      <path class="hit" d={d} />
      <path class="line" d={d} style={{ strokeWidth: `${1.3 + Math.min(2.7, Math.log10(flows + 1) * 0.8)}px` }} marker-end={`url(#tip-${tone})`} />
      {hot && <path class="pulse" d={d} />}
      {dropped > 0 && <g class="cross" style={{ transform: `translate(${x}px,${y}px)` }}><circle r="7.500" /><path d="M-2.700-2.700L2.700 2.700M2.700-2.700L-2.700 2.700" /></g>}
      {text && <text class="carries" x={x} y={y - (dropped ? 12 : 6)}>{text}</text>}
    </g>
  );
}

interface Sight {
  k: number;
  x: number;
  y: number;
}

/** The picture in the middle of the room. */
function fitted(picture: Picture, room: { w: number; h: number }): Sight {
  const k = Math.min(1.15, (room.w - 72) / Math.max(1, picture.w), (room.h - 88) / Math.max(1, picture.h));
  // Below are the controls.
  return { k, x: (room.w - picture.w * k) / 2, y: 28 + (room.h - 88 - picture.h * k) / 2 };
}

function lit(graph: Graph, selected: Selection): Set<string> | undefined {
  if (selected?.type === 'node') {
    const near = new Set([selected.id]);
    const is = (id: string) => id === selected.id || graph.nodes.get(id)?.ns === selected.id;
    for (const edge of graph.edges.values()) {
      if (is(edge.from)) near.add(edge.to);
      if (is(edge.to)) near.add(edge.from);
    }
    return near;
  }
  if (selected?.type === 'edge') return new Set(selected.key.split('\n'));
  if (selected?.type === 'flow') return new Set([selected.row.from.id, selected.row.to.id]);
  return undefined;
}

export function MapView() {
  const { graph, chosen } = useStore();
  const [room, size] = useSize<HTMLDivElement>();
  const shape = useCalm(`${graph.serial}.${graph.shape}`, 1200);
  const [hover, setHover] = useState('');
  const [sight, setSight] = useState<Sight>({ k: 1, x: 0, y: 0 });
  const touched = useRef(false);
  const open = [...chosen.open].join();
  const picture = useMemo(
    () => draw([...graph.nodes.values()], [...graph.edges.values()], (ns) => isOpen(graph, ns), size.h ? Math.max(0.4, innerWidth / size.h) : 1.6),
    [shape, open, Math.round(innerWidth / 120), Math.round(size.h / 120)],
  );
  const fit = () => {
    touched.current = false;
    if (size.w) setSight(fitted(picture, size));
  };
  useEffect(() => {
    if (!touched.current) fit();
  }, [picture, size.w, size.h]);
  const pan = usePan(room, sight, setSight, touched);
  useMapKeys(room, picture, fit, setSight, touched);

  const { selected } = chosen;
  const focus = hover || (selected?.type === 'node' ? selected.id : '');
  const near = lit(graph, selected ?? (hover ? { type: 'node', id: hover } : undefined));
  const all = arrows(graph, picture, focus);
  const isOf = (id: string, one: string) => id === one || graph.nodes.get(id)?.ns === one;
  // A namespace that is closed is lit with what is in it.
  const isLit = (id: string) => !near || near.has(id) || [...near].some((one) => graph.nodes.get(one)?.ns === id);
  const state = (id: string) => `${isLit(id) ? '' : 'faint'} ${selected?.type === 'node' && selected.id === id ? 'chosen' : ''}`;
  const busy = hubs(all, picture.boxes.length);
  const arrowState = (arrow: Arrow) => {
    if (!near) return arrow.ends.some((end) => busy.has(end)) ? 'hub' : '';
    const on = arrow.edges.some((edge) => (selected?.type === 'edge' ? edge.key === selected.key : selected?.type === 'flow' ? near.has(edge.from) && near.has(edge.to) : isOf(edge.from, focus) || isOf(edge.to, focus)));
    return on ? 'lit' : 'faint';
  };
  const click = (event: MouseEvent) => {
    if (pan.moved.current) return;
    const target = (event.target as Element).closest<HTMLElement>('[data-node],[data-ns],[data-arrow]');
    const { node, ns, arrow } = target?.dataset ?? {};
    if (node) store.choose({ selected: { type: 'node', id: node } });
    else if (ns) toggleNamespace(graph, ns);
    else if (arrow) {
      const edge = all.find((one) => one.key === arrow)?.edges.toSorted((a, b) => b.dropped - a.dropped || b.flows - a.flows)[0];
      if (edge) store.choose({ selected: { type: 'edge', key: edge.key } });
    } else store.choose({ selected: undefined });
  };
  const enter = (event: MouseEvent) => {
    const { node, ns } = (event.target as Element).closest<HTMLElement>('[data-node],.closed [data-ns]')?.dataset ?? {};
    setHover(node ?? ns ?? '');
  };
  const lines = (wanted: (arrow: Arrow, state: string) => boolean) => all
    .map((arrow) => [arrow, arrowState(arrow)] as const).filter(([arrow, state]) => wanted(arrow, state))
    .map(([arrow, state]) => <ArrowLine key={arrow.key} arrow={arrow} state={state} moving={all.length <= MOVING} />);
  return (
    <div class="map" ref={room} tabIndex={0} role="application" aria-label="Service map" {...pan.handlers}>
      <svg class={sight.k < 0.5 ? 'far' : ''} width="100%" height="100%" onClick={click} onMouseOver={enter} onMouseLeave={() => setHover('')}>
        <defs>
          {['ok', 'bad', 'mixed', 'warn'].map((tone) => (
            <marker id={`tip-${tone}`} class={`tip ${tone}`} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0.500 0.800L7 4L0.500 7.200z" /></marker>
          ))}
        </defs>
        <g style={{ transform: `translate(${sight.x}px,${sight.y}px) scale(${sight.k})`, transformOrigin: '0 0' }}>
          {lines((arrow, state) => state !== 'lit' && arrow.below)}
          {picture.boxes.filter((box) => !box.special).map((box) => <Namespace key={box.id} box={box} state={state(box.id)} scale={sight.k} />)}
          {lines((arrow, state) => state !== 'lit' && !arrow.below)}
          {lines((_, state) => state === 'lit')}
          {picture.boxes.flatMap((box) => (box.special ? [<Round key={box.id} box={box} state={state(box.id)} />] : box.open ? box.nodes.map((node) => cardOf(node, picture, state(node.id), sight.k)) : []))}
        </g>
      </svg>
      {!graph.nodes.size && <Empty />}
      <Controls graph={graph} fit={fit} zoom={(by) => { touched.current = true; setSight((now) => zoomed(now, by, size.w / 2, size.h / 2)); }} />
    </div>
  );
}

function cardOf(node: Node, picture: Picture, state: string, scale: number) {
  const place = picture.cards.get(node.id);
  if (!place) return null;
  const size = scale < 0.5 ? Math.min(25, Math.round(10.5 / scale)) : 12.5;
  return <Card key={node.id} size={size} id={node.id} name={node.name} kind={node.kind || 'Pod'} ports={topPorts(node.ports, 2)} dropped={node.dropped} place={place} state={state} tint={hue(node.ns)} />;
}

const Empty = () => (
  <div class="empty">
    <h2>{store.trouble ? 'No flows' : store.chosen.query ? 'Nothing matches' : 'Waiting for flows'}</h2>
    <p>{store.trouble || (store.chosen.query ? 'No flow of the last that nodes keep matches the filter; new ones are shown as they come.' : 'They are shown as soon as nodes see some.')}</p>
  </div>
);

function Controls({ graph, fit, zoom }: { graph: Graph; fit: () => void; zoom: (by: number) => void }) {
  return (
    <>
      <div class="legend" aria-hidden="true">
        <span class="ok">forwarded</span><span class="mixed">some dropped</span><span class="bad">dropped</span>
      </div>
      <div class="controls" role="toolbar" aria-label="Map">
        <button title="Show all workloads (e)" onClick={() => openAll(graph, true)}>Expand</button>
        <button title="Show namespaces (c)" onClick={() => openAll(graph, false)}>Collapse</button>
        <button title="Nearer (+)" aria-label="Nearer" onClick={() => zoom(1.3)}>+</button>
        <button title="Farther (-)" aria-label="Farther" onClick={() => zoom(1 / 1.3)}>−</button>
        <button title="Show all of it (f)" onClick={fit}>Fit</button>
      </div>
    </>
  );
}

function toggleNamespace(graph: Graph, ns: string) {
  store.choose({ open: new Map(store.chosen.open).set(ns, !isOpen(graph, ns)) });
}

export function openAll(graph: Graph, open: boolean) {
  const names = [...graph.nodes.values()].map((node) => node.ns).filter(Boolean);
  store.choose({ open: new Map(names.map((ns) => [ns, open])) });
}

function zoomed(now: Sight, by: number, x: number, y: number): Sight {
  const k = Math.min(3, Math.max(0.08, now.k * by));
  return { k, x: x - ((x - now.x) * k) / now.k, y: y - ((y - now.y) * k) / now.k };
}

type SetSight = (next: Sight | ((now: Sight) => Sight)) => void;

/** Moving and zooming by mouse and fingers. */
function usePan(room: { current: HTMLDivElement | null }, sight: Sight, set: SetSight, touched: { current: boolean }) {
  const moved = useRef(false);
  const start = useRef<{ x: number; y: number; sight: Sight } | undefined>(undefined);
  useEffect(() => {
    const element = room.current;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      touched.current = true;
      const at = element!.getBoundingClientRect();
      const by = Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015));
      set((now) => zoomed(now, by, event.clientX - at.left, event.clientY - at.top));
    };
    element?.addEventListener('wheel', wheel, { passive: false });
    return () => element?.removeEventListener('wheel', wheel);
  }, []);
  const handlers = {
    onPointerDown: (event: PointerEvent) => {
      moved.current = false;
      if (event.button === 0 && !(event.target as Element).closest('button')) start.current = { x: event.clientX, y: event.clientY, sight };
    },
    onPointerMove: (event: PointerEvent) => {
      const from = start.current;
      if (!from) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (!moved.current && Math.hypot(dx, dy) < 4) return;
      if (!moved.current) room.current?.setPointerCapture(event.pointerId);
      [moved.current, touched.current] = [true, true];
      set({ ...from.sight, x: from.sight.x + dx, y: from.sight.y + dy });
    },
    onPointerUp: () => { start.current = undefined; },
    onPointerCancel: () => { start.current = undefined; },
  };
  return { moved, handlers };
}

/** Arrow keys go from one to the next, Enter opens it. */
function useMapKeys(room: { current: HTMLDivElement | null }, picture: Picture, fit: () => void, set: SetSight, touched: { current: boolean }) {
  const now = useRef({ picture, fit });
  now.current = { picture, fit };
  useEffect(() => {
    const element = room.current;
    const keys = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const size = element!.getBoundingClientRect();
      const zoom = { '+': 1.25, '=': 1.25, '-': 0.8 }[event.key];
      if (event.key === 'f') now.current.fit();
      else if (zoom) {
        touched.current = true;
        set((sight) => zoomed(sight, zoom, size.width / 2, size.height / 2));
      } else if (step) next(now.current.picture, step as [number, number]);
      else if (event.key === 'Enter' && document.activeElement instanceof SVGElement) document.activeElement.dispatchEvent(new MouseEvent('click', { bubbles: true }));
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    element?.addEventListener('keydown', keys);
    return () => element?.removeEventListener('keydown', keys);
  }, []);
  const next = (all: Picture, [dx, dy]: [number, number]) => {
    const element = room.current!;
    const stops = [...element.querySelectorAll<SVGElement>('[data-node],.closed [data-ns][role]')];
    const middle = (one: Element) => {
      const at = one.getBoundingClientRect();
      return { x: at.x + at.width / 2, y: at.y + at.height / 2 };
    };
    const from = stops.find((one) => one === document.activeElement);
    if (!from || !all.boxes.length) {
      stops[0]?.focus();
      return;
    }
    const here = middle(from);
    let [best, least]: [SVGElement | undefined, number] = [undefined, Infinity];
    for (const stop of stops) {
      const there = middle(stop);
      const [x, y] = [there.x - here.x, there.y - here.y];
      const ahead = x * dx + y * dy;
      if (ahead < 4) continue;
      const far = ahead + 2.5 * Math.abs(dx ? y : x);
      if (far < least) [best, least] = [stop, far];
    }
    best?.focus();
  };
}

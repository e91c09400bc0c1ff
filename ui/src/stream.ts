// Flows and the relay's state, from the server that the page came from.
import type { Line } from './model';

export interface Listener {
  /** Lines that came together. `fresh`: the first of a new answer. */
  lines(lines: Line[], fresh: boolean): void;
  /** Whether flows come, and why not. */
  state(live: boolean, trouble: string): void;
}

/** How many of the flows that nodes keep are asked for, of each. */
const RECORDED = 1000;

/** Follows flows until the function that it returns is called; goes on after breaks. */
export function follow(parameters: string, to: Listener): () => void {
  const ended = new AbortController();
  void run(parameters, to, ended.signal);
  return () => ended.abort();
}

async function run(parameters: string, to: Listener, signal: AbortSignal) {
  let [last, fresh, pause] = ['', true, 500];
  while (!signal.aborted) {
    const query = new URLSearchParams(parameters);
    const again = last;
    query.set('follow', 'true');
    if (last) query.set('since', last);
    else query.set('number', String(RECORDED));
    let trouble = 'the relay ended the connection';
    try {
      const answer = await fetch(`api/flows?${query}`, { signal });
      if (!answer.ok || !answer.body) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
      to.state(true, '');
      pause = 500;
      for await (const lines of chunks(answer.body)) {
        if (signal.aborted) return;
        // What was told last may be told again.
        const news = again ? lines.filter((line) => !line.flow || line.time !== again) : lines;
        trouble = lines.find((line) => line.error)?.error ?? trouble;
        last = lines.findLast((line) => line.flow)?.time ?? last;
        to.lines(news, fresh);
        fresh = false;
      }
    } catch (error) {
      trouble = error instanceof TypeError ? 'the relay does not answer' : String((error as Error).message);
    }
    if (signal.aborted) return;
    to.state(false, trouble);
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 10_000);
  }
}

async function* chunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Line[]> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = parts.pop() ?? '';
    yield parts.filter(Boolean).map((part) => JSON.parse(part) as Line);
  }
}

export interface Status {
  status: {
    num_flows?: string; max_flows?: string; flows_rate?: number; num_connected_nodes?: number; num_unavailable_nodes?: number;
    unavailable_nodes?: string[]; version?: string;
  };
  nodes: { name?: string; version?: string; state?: string; num_flows?: string; max_flows?: string }[];
}

/** The relay's state now and every few seconds; none while it does not answer. */
export async function watchStatus(tell: (status: Status | undefined) => void) {
  for (;;) {
    try {
      const answer = await fetch('api/status');
      tell(answer.ok ? ((await answer.json()) as Status) : undefined);
    } catch {
      tell(undefined);
    }
    await new Promise((done) => setTimeout(done, 5000));
  }
}

/** The object of a policy as it is now, in YAML. */
export async function manifest({ kind, ns, name }: { kind: string; ns: string; name: string }, signal: AbortSignal): Promise<string> {
  const query = new URLSearchParams({ kind, name, ...(ns && { namespace: ns }) });
  const answer = await fetch(`api/policy?${query}`, { signal });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text.trim() || `status ${answer.status}`);
  return text;
}

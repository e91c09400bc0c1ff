import { useEffect, useReducer, useRef, useState } from 'preact/hooks';
import { store } from './store';

/** Draws again whenever the store says so. */
export function useStore() {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => store.listen(() => again(0)), []);
  return store;
}

/** A value that changes at most so often, in milliseconds. */
export function useCalm<T>(value: T, pause: number): T {
  const [calm, set] = useState(value);
  const last = useRef(0);
  useEffect(() => {
    const wait = Math.max(0, last.current + pause - Date.now());
    const timer = setTimeout(() => {
      last.current = Date.now();
      set(value);
    }, wait);
    return () => clearTimeout(timer);
  }, [value]);
  return calm;
}

/** Width and height of an element. */
export function useSize<E extends Element>() {
  const ref = useRef<E>(null);
  const [size, set] = useState({ w: 0, h: 0 });
  useEffect(() => {
    if (!ref.current) return undefined;
    const observer = new ResizeObserver(([entry]) => entry && set({ w: entry.contentRect.width, h: entry.contentRect.height }));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, size] as const;
}

/** A hue that always belongs to this name. */
export function hue(name: string): number {
  let hash = 2166136261;
  for (let at = 0; at < name.length; at++) hash = Math.imul(hash ^ name.charCodeAt(at), 16777619);
  return (hash >>> 0) % 360;
}

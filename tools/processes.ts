/**
 * Server processes that a run starts itself, on its own port and in its own directory, and that it may stop, kill and start
 * again. They end with this process, however it ends.
 */
import { type SpawnOptions, execFileSync, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

export interface Controls {
  readonly port: number;
  /** Stops it in an orderly way, but without waiting for its clients. */
  stop(): Promise<void>;
  /** SIGKILL for all of its processes. */
  kill(): Promise<void>;
  start(): Promise<void>;
  /** SIGSTOP for all of its processes: it keeps its connections, and says nothing. */
  pause(): void;
  /** @see pause */
  resume(): void;
  /** Ends it for good, and removes its directory. */
  dispose(): Promise<void>;
}

export const STARTING = 60_000;

/**
 * What all of them have in common: one process with a pid, which has to be gone before the next one starts.
 *
 * @param pids of what runs, the one that is told to stop first
 * @param quit the signal that stops it
 */
export function control(
  port: number,
  directory: string,
  launch: () => Promise<void>,
  pids: () => number[],
  quit: NodeJS.Signals,
): Controls {
  const send = (signal: NodeJS.Signals, receivers: readonly number[]) =>
    receivers.forEach((pid) => signalTo(pid, signal));
  const end = async (signal: NodeJS.Signals, all: boolean) => {
    const running = pids();
    send(signal, all ? running : running.slice(0, 1));
    // one that was paused hears of nothing but SIGKILL
    send('SIGCONT', running);
    await gone(running);
  };
  const atExit = () => {
    // also one that is still starting, and has no pid file yet
    send('SIGKILL', [...pids(), ...childrenOf(process.pid)]);
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', atExit);
  return {
    port,
    stop: () => end(quit, false),
    kill: () => end('SIGKILL', true),
    start: launch,
    pause: () => send('SIGSTOP', pids()),
    resume: () => send('SIGCONT', pids()),
    async dispose() {
      await end('SIGKILL', true);
      process.removeListener('exit', atExit);
      rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    },
  };
}

/** @returns whether there is such a process */
export function signalTo(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false; // it is gone already
  }
}

/** A server that is one process at a time. */
export class ServerProcess {
  readonly #name: string;
  readonly #log: string;
  #pid: number | undefined;
  /** How it ended, if it has, … */
  #end = '';
  /** … and what it said before it had a log. */
  readonly #said: string[] = [];

  /** @param log the file that it writes */
  constructor(name: string, log: string) {
    this.#name = name;
    this.#log = log;
  }

  readonly pids = (): number[] => (this.#pid !== undefined && signalTo(this.#pid, 0) ? [this.#pid] : []);

  spawn(program: string, args: readonly string[], options: Pick<SpawnOptions, 'env' | 'uid' | 'gid'>): void {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    this.#end = '';
    child.stderr!.on('data', (text) => this.#said.push(String(text)) > 50 && this.#said.shift());
    child.once('error', (error) => (this.#end = `, it could not be started: ${error.message}`));
    child.once('exit', (code, signal) => {
      // the next one may run already
      if (this.#pid === child.pid) {
        this.#end = `, it ended with ${code ?? signal}`;
        this.#pid = undefined;
      }
    });
    this.#pid = child.pid;
  }

  /**
   * Waits until it is ready.
   *
   * @throws with what it has said, when it has ended, or takes too long
   */
  async until(isReady: () => Promise<boolean>): Promise<void> {
    const deadline = Date.now() + STARTING;
    while (!(await isReady())) {
      if (this.pids().length === 0 || Date.now() > deadline) {
        const log = existsSync(this.#log) ? readFileSync(this.#log, 'utf8').slice(-4000) : '';
        throw new Error(`${this.#name} did not start${this.#end}:\n${this.#said.join('')}${log}`);
      }
      await wait(50);
    }
  }
}

async function gone(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + STARTING;
  while (pids.some((pid) => signalTo(pid, 0))) {
    if (Date.now() > deadline) {
      throw new Error(`Processes ${pids.join(', ')} do not end.`);
    }
    await wait(20);
  }
}

export function childrenOf(pid: number): number[] {
  try {
    return execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
      .split('\n')
      .filter(Boolean)
      .map(Number);
  } catch {
    return []; // pgrep fails when there is none
  }
}

/** Where a program is, also one that only root has on its PATH. */
export function find(program: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return directories.map((directory) => join(directory, program)).find((file) => existsSync(file));
}

/** Whom a server becomes that does not run as root; nobody else where this process is not root. */
export function otherUser(name: string): { uid?: number; gid?: number } {
  if (userInfo().uid !== 0) {
    return {};
  }
  const id = (flag: string) => Number(execFileSync('id', [flag, name], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

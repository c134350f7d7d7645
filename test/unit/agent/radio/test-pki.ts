import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { TlsFiles } from '../../../../agent/radio/link.js';

const run = promisify(execFile);

/** A CA for one test, made by openssl alone, so that these tests judge agent/pki's work from outside. */
export class TestCa {
  readonly dir: string;
  readonly name: string;

  constructor(dir: string, name: string) {
    this.dir = dir;
    this.name = name;
  }

  async make(): Promise<this> {
    await this.#openssl(
      'req',
      '-x509',
      ...newKey,
      '-keyout',
      this.#at('key'),
      '-out',
      this.#at('crt'),
      '-days',
      '30',
      '-subj',
      `/CN=${this.name}`,
    );
    return this;
  }

  /** @param o.expired - its time is over */
  async certificate(cn: string, o: { expired?: boolean } = {}): Promise<TlsFiles> {
    const base = `${this.dir}/${this.name}-${cn}${o.expired === true ? '-expired' : ''}`;
    await writeFile(
      `${base}.ext`,
      'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n',
    );
    await this.#openssl(
      'req',
      ...newKey,
      '-keyout',
      `${base}.key`,
      '-out',
      `${base}.csr`,
      '-subj',
      `/CN=${cn}`,
    );
    await this.#openssl(
      'x509',
      '-req',
      '-in',
      `${base}.csr`,
      '-CA',
      this.#at('crt'),
      '-CAkey',
      this.#at('key'),
      '-CAcreateserial',
      '-days',
      o.expired === true ? '-1' : '30',
      '-extfile',
      `${base}.ext`,
      '-out',
      `${base}.crt`,
    );
    const [ca, cert, key] = await Promise.all(
      [this.#at('crt'), `${base}.crt`, `${base}.key`].map((f) => readFile(f, 'utf8')),
    );
    return { ca: ca as string, cert: cert as string, key: key as string };
  }

  #at(end: string): string {
    return `${this.dir}/${this.name}.${end}`;
  }

  async #openssl(...args: string[]): Promise<void> {
    await run('openssl', args);
  }
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

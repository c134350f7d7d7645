import '@mantine/core/styles.css';
import './style.css';
import { MantineProvider, createTheme, type CSSVariablesResolver } from '@mantine/core';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './app';
import { live } from './live';

const nonce = document.querySelector('meta[name="csp-nonce"]')?.getAttribute('content') ?? '';
// The library that keeps the page still behind a dialog asks for it here.
Object.assign(globalThis, { __webpack_nonce__: nonce });

const theme = createTheme({
  primaryColor: 'blue',
  primaryShade: { light: 8, dark: 8 },
  fontFamily: 'system-ui, sans-serif',
  defaultRadius: 'sm',
  cursorType: 'pointer',
  respectReducedMotion: true,
  autoContrast: true,
  components: { Modal: { defaultProps: { closeButtonProps: { 'aria-label': 'Close' } } } },
});

/** The library's pale texts are too pale to read: words on paper and on badges get 4.5 to 1 and more. */
const shades = (n: number): Record<string, string> =>
  Object.fromEntries(
    ['green', 'blue', 'yellow', 'orange', 'red', 'gray'].map((c) => [
      `--mantine-color-${c}-light-color`,
      `var(--mantine-color-${c}-${n})`,
    ]),
  );
const readable: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    ...shades(9),
    '--mantine-color-yellow-light-color': '#7a4a00',
    '--mantine-color-orange-light-color': '#8a3a00',
    '--mantine-color-green-light-color': '#1b5e20',
    '--mantine-color-dimmed': '#596067',
    '--mantine-color-anchor': 'var(--mantine-color-blue-9)',
    '--mantine-color-orange-text': '#8a3a00',
    '--mantine-color-red-text': '#a61b1b',
  },
  dark: {
    ...shades(2),
    '--mantine-color-dimmed': '#b0b7be',
    '--mantine-color-anchor': 'var(--mantine-color-blue-3)',
  },
});

const root = document.getElementById('root');
if (root === null) throw new Error('the page has no root');
createRoot(root).render(
  <StrictMode>
    <MantineProvider
      theme={theme}
      defaultColorScheme="auto"
      getStyleNonce={() => nonce}
      cssVariablesResolver={readable}
    >
      <App />
    </MantineProvider>
  </StrictMode>,
);
void live.follow();

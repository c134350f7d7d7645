import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// Assets have their hash in the name; scripts/bundle.mjs packs them for the controller (controller/web-files.ts).
export default defineConfig({
  plugins: [react()],
  base: '/',
  build: {
    outDir: '../../build/web',
    emptyOutDir: true,
    target: 'es2022',
    // A page of its own origin only: nothing is inlined that a strict policy would refuse.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1500,
  },
  logLevel: 'warn',
});

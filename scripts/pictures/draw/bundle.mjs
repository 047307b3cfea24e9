// page.jsx and all it imports as page.js and page.css in the folder given.
import { build } from 'esbuild';

const url = Object.fromEntries(['.svg', '.png', '.woff', '.woff2', '.ttf'].map((suffix) => [suffix, 'dataurl']));
await build({
  entryPoints: ['page.jsx'], outdir: process.argv[2], bundle: true, jsx: 'transform', loader: url, logLevel: 'error',
  define: { 'process.env.NODE_ENV': '"production"', 'process.env': '{}', global: 'window' }, minify: true,
});

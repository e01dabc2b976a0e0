"""The look of the page that `show_html` makes, for light and dark screens, wide and narrow."""

STYLE = """
:root {
  --paper: #faf8f4; --card: #fff; --ink: #25231f; --dim: #716c62; --line: #e4dfd5; --accent: #3459a8;
  --masked: #ffdf8a; --replaced: #ffc2b3; --kept: #cdebc0; --sentinel: #e3d0fb; --inserted: #bfe3f7;
  --moved: #c9efe9; --target: #dcecc9; --now: #5577c4; --past: #e0a13c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171615; --card: #211f1d; --ink: #e9e5dd; --dim: #a29b8f; --line: #3a3733; --accent: #9db8f5;
    --masked: #6b5312; --replaced: #7d3426; --kept: #2f5a24; --sentinel: #523a75; --inserted: #1d506b;
    --moved: #1d5a52; --target: #3c5423; --now: #6f8fdb; --past: #c98a2b;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.15; margin: 0 0 1rem; letter-spacing: -0.01em; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.text { border-left: 3px solid var(--accent); padding: 0.1rem 1rem; font-family: Georgia, serif; font-size: 1.1rem; }
.text p { margin: 0.4rem 0; overflow-wrap: anywhere; }
header > p { color: var(--dim); }
ul { list-style: none; margin: 0.8rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; }
.legend { font-size: 0.9rem; }
nav { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 0.5rem 1.5rem; margin: 1.5rem 0;
  padding: 0.8rem 1rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
nav h2 { font-size: 0.8rem; margin: 0.2rem 0; color: var(--dim); font-weight: 600; }
nav a { display: inline-block; margin-right: 0.6rem; }
section { margin: 1.2rem 0; padding: 1rem 1.2rem 1.2rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); scroll-margin-top: 0.5rem; }
section:target { border-color: var(--accent); }
section > h2 { margin: 0; font-size: 1.25rem; font-family: ui-monospace, Menlo, Consolas, monospace; }
.summary { margin: 0.1rem 0 0.6rem; }
cite { color: var(--dim); font-style: normal; font-size: 0.9rem; margin-left: 0.4rem; white-space: nowrap; }
pre { margin: 0.6rem 0; padding: 0.5rem 0.8rem; background: var(--paper); border-radius: 6px; overflow-x: auto;
  font: 0.82rem/1.5 ui-monospace, Menlo, Consolas, monospace; color: var(--dim); }
.settings { font: 0.74rem/1.5 ui-monospace, Menlo, Consolas, monospace; color: var(--dim); margin: 0.5rem 0;
  gap: 0 0.9rem; }
.settings .changed { color: var(--ink); font-weight: 600; }
article + article { border-top: 1px dashed var(--line); margin-top: 0.9rem; }
dl { display: grid; grid-template-columns: 9.5rem 1fr; gap: 0.35rem 1rem; margin: 0.8rem 0; }
dt { color: var(--dim); font-size: 0.85rem; padding-top: 0.15rem; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; line-height: 1.75; }
.t { display: inline-flex; flex-direction: column; align-items: center; vertical-align: top; line-height: 1.35;
  padding: 0 0.14rem; margin: 0 0.05rem 0.15rem 0.14rem; border-radius: 4px; }
.t.joined { margin-left: 0; }
.t i { font-style: normal; font-size: 0.75rem; line-height: 1.1; color: var(--dim); padding-bottom: 0.1rem; }
.masked { background: var(--masked); } .replaced { background: var(--replaced); }
.kept { background: var(--kept); } .sentinel { background: var(--sentinel); }
.inserted { background: var(--inserted); } .moved { background: var(--moved); } .target { background: var(--target); }
.deleted { color: var(--dim); text-decoration: line-through; } .special { color: var(--dim); font-size: 0.85em; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figure { margin: 0.4rem 0 0; max-width: 100%; }
figcaption { font-size: 0.82rem; color: var(--dim); max-width: 34rem; }
.trouble { color: var(--ink); border-left: 3px solid var(--replaced); padding-left: 0.8rem; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 7px ui-monospace, Menlo, Consolas, monospace; fill: var(--dim); text-anchor: end; }
svg .top { text-anchor: start; }
.now { fill: var(--now); background: var(--now); } .past { fill: var(--past); background: var(--past); }
.lines { stroke: var(--line); stroke-width: 0.7; fill: none; }
.sample { display: inline-block; width: 0.75em; height: 0.75em; border-radius: 2px; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0 0; } dt { padding-top: 0.5rem; }
  section { padding: 0.8rem; } cite { display: block; margin: 0; }
}
"""

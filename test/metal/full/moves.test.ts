import { Scenes, victims } from '../scenes.js';

/** Ten migrations there and back; then each of those who have a part in one dies at eight moments of it. */

const s = await Scenes.open('rigmove');
for (let i = 0; i < 10; i++) await s.thereAndBack();
for (const victim of victims) for (let i = 0; i < 8; i++) await s.moment(victim, i * 800);

import { moments, Scenes, times, victims } from '../scenes.js';

/** Ten migrations there and back; then each of those who have a part in one dies at eight moments of it. */

const s = await Scenes.open('rigmove');
for (let i = 0; i < times(10); i++) await s.thereAndBack();
for (const victim of victims) for (const ms of moments()) await s.moment(victim, ms);
